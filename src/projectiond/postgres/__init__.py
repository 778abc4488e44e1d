"""PostgreSQL as the daemon uses it: connections, statements on their way, the database objects, who may do what."""
