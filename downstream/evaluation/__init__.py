"""What all tasks share: encoders and twins, leak checks, label fractions, summary, page."""
