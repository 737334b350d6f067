"""The site on ``web.port``: the page and its JSON, metrics for Prometheus, health, and metrics sent over HTTP."""
