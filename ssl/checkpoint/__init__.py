"""The checkpoint: a folder that describes itself; read, written, verified, started from."""
