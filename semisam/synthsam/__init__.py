"""SynthSAM: a promptable segmenter that has only ever seen volumes drawn by this package."""
