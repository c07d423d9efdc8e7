"""Any table of numbers by time, from frozen features."""
