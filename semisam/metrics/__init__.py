"""Scores of a segmentation and the surface distances they need.

Put here what compares two masks. It reads no file and uses no model.
"""
