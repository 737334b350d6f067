"""Judging: rules over data at a time, to alert states and their evidence."""
