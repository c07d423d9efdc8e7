"""What a gridded field is: grid, variables, units, splits, normalisation, batches."""
