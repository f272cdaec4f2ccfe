"""Data from files to batches.

``images`` reads and prepares one scan. ``datasets`` combines scans into a dataset with a split.
``loading`` caches volumes and draws batches. ``tools`` checks, prepares and downloads folders. Each
imports only what comes before it here.
"""
