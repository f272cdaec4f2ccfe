"""Data sets: the cases there are, their split and their files. One layout, one file."""
