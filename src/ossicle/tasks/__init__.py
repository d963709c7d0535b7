"""Tasks: what a head, a decoder or a projection makes of tokens."""
