"""The training loop and what it leaves: trainer, checkpoint, process group, memory.

The loop knows methods by their contract only: no SAM, no data set, no table.
"""
