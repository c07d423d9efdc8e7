"""A class for each cell, from frozen tokens and the raw fields."""
