"""One scan: its file, header, orientation, spacing and intensities."""
