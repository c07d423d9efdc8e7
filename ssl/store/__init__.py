"""The training store on disk: read, write, chunks, and the cache of stores elsewhere."""
