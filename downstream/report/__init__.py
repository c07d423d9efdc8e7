"""The HTML report of a probe, and the tables that the terminal shows."""
