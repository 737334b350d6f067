"""Deciding by numbers: pure functions on arrays, each testable without a store, a clock or a network."""
