"""Operation: the service and its schedule, status, audit, doctor, and what commands ask of a running service."""
