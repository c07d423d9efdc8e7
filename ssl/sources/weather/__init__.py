"""Weather: a three-level quasi-geostrophic atmosphere on the sphere, whose true state is known."""
