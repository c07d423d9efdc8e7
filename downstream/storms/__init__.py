"""Best tracks, and crops around storms."""
