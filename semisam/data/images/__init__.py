"""A single scan: its file, header, orientation, spacing and intensities."""
