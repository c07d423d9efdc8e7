"""Tasks about space: orientation, relative position, jigsaw."""
