"""The training loop and its files: trainer, checkpoint, processes, memory.

The loop knows methods by their contract only: no SAM, no data set, no table.
"""
