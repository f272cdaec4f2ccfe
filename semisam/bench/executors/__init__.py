"""Executors of the runs of a grid; a module is imported only if its executor is chosen."""
