"""Models of the protocols, small enough to look at every state that they can reach."""
