"""Which storms intensify rapidly."""
