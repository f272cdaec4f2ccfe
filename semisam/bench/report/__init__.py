"""One self-contained HTML page about the runs of a bench folder, and its figures as files."""
