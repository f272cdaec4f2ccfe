"""Plugins by name: the registry of entry points, their options, and new plugin projects.

Here lives what finds, checks and starts plugins of any kind. No plugin lives here.
"""
