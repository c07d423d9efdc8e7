"""Missing observations filled in."""
