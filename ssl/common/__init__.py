"""Errors, config files, atomic writing, randomness, progress: what everything may import."""
