"""Analogue forecasts: what came after the most alike states of the past."""
