"""Which worker runs which projection, decided by PostgreSQL; and who the workers are, for people."""
