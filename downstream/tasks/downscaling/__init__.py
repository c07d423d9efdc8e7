"""downscaling: fields on a finer grid than the encoder's, with their quantiles; the same grid is a bias correction."""
