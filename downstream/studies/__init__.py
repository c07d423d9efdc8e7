"""The matrix of pretext and downstream tasks, and the table of the audit."""
