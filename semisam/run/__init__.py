"""One run, from settings to result: settings, protocols, build, preflight, execute, folder, model.

``folder`` is the one reader and writer of a run folder.
"""
