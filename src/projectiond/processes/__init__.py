"""What the daemon's processes know of each other, and say to each other."""
