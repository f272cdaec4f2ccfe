"""Networks and their layers: one network, one file.

Put here layers, properties of layers (precision, BatchNorm statistics) and published checkpoints
of networks. A network depends on no method and on no data.
"""
