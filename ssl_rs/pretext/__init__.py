"""Pretext tasks: heads and losses that learn an encoder without labels."""
