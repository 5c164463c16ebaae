"""Closed forms that the measurements are checked against."""
