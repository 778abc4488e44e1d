"""One projection at work: when it takes a step, what a step is, and what follows from what went wrong."""
