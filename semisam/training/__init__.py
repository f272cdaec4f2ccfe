"""The training loop and its files: trainer, checkpoint, processes, memory.

The loop uses a method by its contract only. It uses no backend, no dataset and no table.
"""
