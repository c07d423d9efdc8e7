"""Tasks about time: order and distance."""
