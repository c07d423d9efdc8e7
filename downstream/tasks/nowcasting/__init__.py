"""Rain of the next hour from the last radar frames: chances of classes of rain."""
