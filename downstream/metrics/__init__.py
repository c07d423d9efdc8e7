"""Scores as functions of sample weights, and the paired bootstrap."""
