"""Items (bytes) to Arrow columns, checked on the way."""
