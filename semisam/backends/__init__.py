"""Promptable models: one model, one file.

Private packages (``_sam_med3d``, ``_synthsam``) hold a model's network; a backend wraps it.
"""
