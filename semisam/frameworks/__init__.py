"""Semi-supervised methods: one paper, one file, one class; SemiSAM itself among them.

Files with a leading underscore hold arithmetic that several methods share.
"""
