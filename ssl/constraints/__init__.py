"""Constraints: what predicted values must satisfy in units, as penalties, as layers, and as measures of violation."""
