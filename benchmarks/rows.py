"""The rows of a benchmark: their means and their CSV file."""

from __future__ import annotations

import csv
from statistics import fmean


def means(scores):
    """Return the mean of each Dice over scans, in percent."""
    return {key: round(100 * fmean(s[key] for s in scores), 2) for key in scores[0]}


def write_rows(path, rows):
    """Write dictionaries; a cell is empty where a row lacks its key."""
    columns = dict.fromkeys(key for row in rows for key in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
