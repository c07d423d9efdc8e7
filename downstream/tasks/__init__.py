"""The downstream tasks: one folder each, and the registry of their names."""
