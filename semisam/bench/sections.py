"""The parts of a table within which figures may be compared, and the names of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

PAPER = "paper, Table II"
"""The mark of a row of the paper."""
_OF_THE_DATA = ("scans ", "parts ", "label ")
"""The starts of the texts in ``made_by`` that tell training data apart."""
_OF_A_ROW = ("prompter", "sam_adapt")
"""Settings that rows are compared for, so they are in a row's name."""


@dataclass(frozen=True)
class Section:
    """Rows that may be compared: of one protocol, with the same departures, on the same test data.

    Attributes:
        title: the protocol and the departures from it.
        rows: of the table, which may include rows of the paper.
    """

    title: str
    rows: pd.DataFrame


def sections(table: pd.DataFrame) -> list[Section]:
    """Divide a table into parts within which its figures may be compared.

    Options of a single method, backend, prompter or of the branch do not separate parts, since rows
    are compared for them. They are in the row's name.
    """
    keys = [section_key(row) for row in table.to_dict("records")]
    places = list(dict.fromkeys(keys))
    several_data = len({key[1:3] for key in places}) > 1
    found = []
    for place in places:
        protocol, dataset, data, made_by, common = place
        title = f"Protocol {protocol}"
        if common:
            title += f", departing from it in {', '.join(common)}"
        if several_data and dataset:
            title += f"; data: {dataset}" + (f", {data}" if data else "")
        title += f"; made by {made_by}" if made_by else ""
        rows = table[[key == place for key in keys]].reset_index(drop=True)
        found.append(Section(title, rows))
    return found


def section_key(row: Mapping[Any, Any]) -> tuple[str, str, str, str, tuple[str, ...]]:
    """Return the protocol, test data and settings that the rows of a part have in common."""
    common = tuple(part for part, own in _parts(row) if not own)
    if row["protocol"] == PAPER:
        return "paper", "la", "", "", common
    place = (str(row["protocol"]), text_of(row, "dataset"), text_of(row, "data"))
    # Weights and plugins separate only their own rows, by their names.
    version = next((t for t in text_of(row, "made_by").split("; ") if t.startswith("results ")), "")
    return *place, version, common


def data_version(row: Mapping[Any, Any]) -> str:
    """Return what tells a row's training data apart, empty if its part of the table has one."""
    texts = text_of(row, "made_by").split("; ")
    return "; ".join(text for text in texts if text.startswith(_OF_THE_DATA))


def _parts(row: Mapping[Any, Any]) -> list[tuple[str, bool]]:
    """Return departures and choices of a row, each with True if it is an option of one plugin."""
    places = {row["method"], "semisam", row["sam"], text_of(row, "prompter")} - {"", "none"}
    texts = [t for name in ("departures", "choices") for t in text_of(row, name).split("; ") if t]
    found = []
    for text in dict.fromkeys(texts):  # an option may be a departure and a choice
        name = text.partition("=")[0]
        found.append((text, name in _OF_A_ROW or name.rpartition(".")[0] in places))
    return found


def text_of(row: Mapping[Any, Any], name: str) -> str:
    """Return a text of a row, or an empty text if the row lacks it (a row of the paper)."""
    value = row.get(name, "")
    return value if isinstance(value, str) else ""


def method_name(row: Mapping[Any, Any]) -> str:
    """Return ``mt`` or ``mt + SemiSAM (geodesic, control: oracle)``.

    Options of its plugins follow in brackets, ``mt + SemiSAM (geodesic) [semisam.weight=0.2]``, and
    the digests of training data and weights in which rows differ.
    """
    own = [part for part, is_own in _parts(row) if is_own]
    made = text_of(row, "made_by").split("; ")
    own += [text for text in made if text and not text.startswith("results ")]
    options = f" [{', '.join(own)}]" if own else ""
    if row["sam"] == "none":
        return f"{row['method']}{options}"
    parts = [str(row["sam"])]
    if isinstance(row["sam_control"], str) and row["sam_control"]:
        parts.append(f"control: {row['sam_control']}")
    return f"{row['method']} + SemiSAM ({', '.join(parts)}){options}"
