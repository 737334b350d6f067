"""Every Redis word of an item: the buffer, its segments, chunks and leases."""
