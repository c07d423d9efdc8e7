"""Forecasts of ENSO at monthly leads."""
