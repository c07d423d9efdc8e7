"""The command line, and the Python functions where ssl, pretext and downstream meet."""
