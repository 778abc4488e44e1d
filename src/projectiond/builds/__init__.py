"""What built a projection's tables, what is done when something else has, and what a rebuild would take."""
