"""Shared basics: clock, settings, errors, log, failpoints, connections to Redis."""
