"""Notifications: routing, channels, deliveries that survive a kill."""
