"""The CSV file of a benchmark's rows."""

from __future__ import annotations

import csv


def write_rows(path, rows):
    """Write dictionaries; a cell is empty where a row lacks its key."""
    columns = dict.fromkeys(key for row in rows for key in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
