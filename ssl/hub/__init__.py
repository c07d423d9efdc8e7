"""Checkpoints that travel: registry index, pull, push, cache."""
