"""Where the time goes, measured."""
