"""The making of SynthSAM: anatomy, generator, scanner, simulated user, session, training.

No scan of a person is read here.
"""
