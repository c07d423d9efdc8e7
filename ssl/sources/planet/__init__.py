"""The synthetic planet: a small Earth whose hidden state is known."""
