"""Tokens, the encoder, and the health of its features."""
