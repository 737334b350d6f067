"""The HTTP interfaces."""
