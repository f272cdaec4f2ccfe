"""Executors of the runs of a grid; each module is imported only when its executor is chosen."""
