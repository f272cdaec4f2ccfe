"""Datasets: the cases, their split and their files. One layout, one file."""
