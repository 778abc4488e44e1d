"""The event store as a stream: up to where it is settled, who waits for more, and the next events of a projection."""
