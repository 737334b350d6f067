"""Running it and looking at it: service, schedule, status, audit, doctor."""
