"""Forecasts of whole fields at leads of days."""
