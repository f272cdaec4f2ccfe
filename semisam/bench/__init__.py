"""Grids of runs, the results store and the comparison table."""
