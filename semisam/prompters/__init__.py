"""What turns a proposal into a prompt for a promptable model."""
