"""Scores of a segmentation and the surface distances they need.

Here lives what compares two masks. It reads no file and knows no model.
"""
