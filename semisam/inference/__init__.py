"""A trained model on images: sliding window, predictor, evaluation, export, card, preview.

This package holds code that needs a network and images. It uses no run folder and no settings.
"""
