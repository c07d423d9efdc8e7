"""Constraints: what predicted fields must satisfy in units, as penalties, as layers and as measures of the violation."""
