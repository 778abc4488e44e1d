"""What the tests share: PostgreSQL servers, events, waiting."""
