"""Reports of other tools, turned into metrics: one module a format, one table of formats."""
