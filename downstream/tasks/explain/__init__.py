"""Attribution maps of an index, and what they are held against."""
