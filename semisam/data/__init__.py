"""From files to batches.

``images`` reads and prepares one scan, ``datasets`` says which scans belong together, ``loading``
keeps them and draws batches, ``tools`` checks, prepares and downloads whole folders.
"""
