"""What all tasks share: the seam, encoders and twins, rows on equal input, leak checks, the curve over labels."""
