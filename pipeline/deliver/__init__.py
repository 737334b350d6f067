"""Delivery, exactly once: the drainer, spilling, the ledger, dead letters."""
