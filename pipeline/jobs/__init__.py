"""Doing: read from the store, call the pure part in ``analyse``, write the result."""
