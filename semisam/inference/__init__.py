"""A trained model on images: sliding window, predictor, evaluation, export, card, preview.

Here lives what needs a network and images. It knows no run folder and no settings.
"""
