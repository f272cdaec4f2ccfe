"""Masks by clicks, from the command line, from Python and from viewers."""
