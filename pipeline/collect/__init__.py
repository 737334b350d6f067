"""Collectors: what is read from the platform's own Redis keys, and the metrics made of it."""
