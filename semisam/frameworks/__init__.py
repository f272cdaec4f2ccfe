"""Training methods: one paper, one file, one class."""
