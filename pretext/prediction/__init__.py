"""Tasks that predict fields or features: masking, cross-variable, lead time, latent."""
