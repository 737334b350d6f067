"""Unit tests of alert rules, in promtool's notation."""
