"""From a folder of scans and a few masks to masks of all: ``semisam auto``.

This package composes other packages. Each of its steps is also a command or a function of them.
"""
