"""What a run will take: trials, finders, profiler."""
