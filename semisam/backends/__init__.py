"""Promptable models: one model, one file.

A private package (``_sam_med3d``, ``_synthsam``) holds the network that a backend wraps.
"""
