"""From a source to a training store."""
