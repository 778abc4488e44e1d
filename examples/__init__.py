"""Applications that write events; each is run by the tests."""
