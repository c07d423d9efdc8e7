"""The process: memory, signals, threads, workers, ranks, launching."""
