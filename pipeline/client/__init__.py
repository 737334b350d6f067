"""What other teams install: the client, the importers and the pytest plugin."""
