"""Plugins by name: the registry of entry points, their options, and new plugin projects.

Put here what finds, checks and starts plugins of any kind, but no plugin.
"""
