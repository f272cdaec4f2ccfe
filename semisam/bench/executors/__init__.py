"""Where the runs of a grid are executed: a module each, imported only when it is asked for."""
