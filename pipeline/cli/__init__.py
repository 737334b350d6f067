"""The command line, one module for each kind of command; ``pipeline.cli.main`` puts them together."""
