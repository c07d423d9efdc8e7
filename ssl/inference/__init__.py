"""A checkpoint in use: frozen encoder, embedding, export, scikit-learn."""
