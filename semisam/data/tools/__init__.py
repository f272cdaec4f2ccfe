"""Work on whole folders of scans: check, prepare, download."""
