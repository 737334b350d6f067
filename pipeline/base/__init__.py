"""What every part stands on: clock, settings, errors, log, failpoints, Redis connections."""
