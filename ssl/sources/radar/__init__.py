"""The source `radar`: crops of rain that radars saw, frame by frame."""
