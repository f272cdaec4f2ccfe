"""Loggers: one service, one file."""
