"""From stores to batches: windows, loaders, mixtures, fields in memory or from files."""
