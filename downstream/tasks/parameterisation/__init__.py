"""parameterisation: what unresolved scales do to resolved ones, offline and coupled."""
