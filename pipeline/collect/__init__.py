"""Collectors: parts of the platform's Redis that are read, one module each."""
