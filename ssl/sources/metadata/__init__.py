"""What a file says of its fields beside their values: what they are, and when they are valid."""
