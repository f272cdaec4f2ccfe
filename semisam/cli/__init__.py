"""The command line: each command parses, calls one function and prints.

No logic lives here, and no command makes up settings to reach a function.
"""
