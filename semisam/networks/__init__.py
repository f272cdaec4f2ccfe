"""Networks and their layers: one network, one file.

Here lives everything that is a layer, a property of layers (precision, BatchNorm's statistics) or
a published checkpoint of a network. A network knows no method and no data.
"""
