"""Training by the clock."""
