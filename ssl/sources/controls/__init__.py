"""Controls: small synthetic worlds of which it is known what an encoder can find in them, and what it cannot."""
