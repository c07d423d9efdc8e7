"""What a table is and how it is shown: rows, targets, scores, pictures, the page."""
