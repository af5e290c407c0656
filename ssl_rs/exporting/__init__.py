"""Finished weights in the forms that other programs read."""
