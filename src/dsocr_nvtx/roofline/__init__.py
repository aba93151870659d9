"""Joined tables against a device's roofs: least times, efficiencies, bounds. Formats and draws nothing."""
