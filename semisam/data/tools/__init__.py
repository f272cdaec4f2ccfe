"""Tools for whole folders of scans: check, prepare, download."""
