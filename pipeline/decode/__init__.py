"""Decoding: items (bytes) to Arrow columns, each checked on the way, the refused ones with their reason."""
