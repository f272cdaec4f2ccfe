"""The making of SynthSAM: anatomy, generator, scanner, simulated user, session, training.

It reads no scan of a person.
"""
