"""bias_correction: forecasts of a model at places, corrected by what was observed there."""
