"""Segmentation networks: one body, named heads."""
