"""Promptable segmenters: one model, one file, one class."""
