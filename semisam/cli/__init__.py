"""The command line: click commands only; heavy imports stay inside the commands."""
