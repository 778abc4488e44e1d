"""Readings and changes for people: how all stand, pause and go on, what was passed over, what was appended."""
