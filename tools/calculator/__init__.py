"""The calculator and its units."""
