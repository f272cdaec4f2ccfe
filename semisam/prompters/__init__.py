"""Prompt strategies: one strategy, one file.

A prompter turns one class of a proposal into a `Prompt`. It sees a `View`, which has no label.
"""
