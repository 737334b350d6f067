"""What is remembered of alerts: the table, Redis, silences."""
