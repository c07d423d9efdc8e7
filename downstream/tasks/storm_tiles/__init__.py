"""Which tiles of a map hold a storm."""
