"""Evaluation of rules over data at a time: alert states and their evidence."""
