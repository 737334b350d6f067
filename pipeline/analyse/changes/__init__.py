"""Changes of level in a series of runs: models, search, confirmation."""
