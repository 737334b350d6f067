"""Scheduled jobs: each reads from the store, calls the pure part in ``analyse``, and writes the result."""
