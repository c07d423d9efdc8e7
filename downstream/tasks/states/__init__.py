"""Seasonal states of ENSO as classes."""
