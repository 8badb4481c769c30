"""Statistics and comparison: pure functions from runs."""
