"""Volumes, splits, sampling, augmentation and a phantom."""
