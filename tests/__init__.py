"""The tests of projectiond."""
