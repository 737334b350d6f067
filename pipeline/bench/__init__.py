"""Benchmarks of this machine: each module offers what ``pipeline bench`` of its name prints."""
