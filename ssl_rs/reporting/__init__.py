"""From finished runs to a table, curves and one page."""
