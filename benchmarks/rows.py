"""The CSV file of a benchmark's rows."""

from __future__ import annotations

import csv


def write_rows(path, rows):
    """Write dictionaries of the same keys, the first one's in their order."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
