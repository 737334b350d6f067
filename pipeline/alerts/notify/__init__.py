"""Telling people: routing, channels, deliveries that survive a kill."""
