"""Data sets, the store they are prepared into, and what is drawn from it."""
