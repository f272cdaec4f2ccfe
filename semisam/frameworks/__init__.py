"""Semi-supervised methods: one paper, one file, one class; SemiSAM itself among them.

Files with a leading underscore are arithmetic that several papers share.
"""
