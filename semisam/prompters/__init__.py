"""Prompters: one prompt strategy, one file.

A prompter turns one class of a proposal into a `Prompt`. Its input is a `View`, which has no label.
"""
