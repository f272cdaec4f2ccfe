"""The style of the figures: fonts, colours per method, and their files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from semisam.bench.report.runs import Row
from semisam.core.files import csv_cell, replace_file

INK, MUTED, GRID, PAPER = "#1d1d22", "#5f5f6b", "#e2e2e8", "#fefefe"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
"""Colours that the page replaces by its own, so that figures fit light and dark pages."""

# Okabe and Ito's colours for the colour-blind, without yellow, which is weak on white.
_METHODS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#aa3377")
_BASELINE = "#7d7d88"
TRUTH, WITHOUT, WITH = "#f0e442", "#56b4e9", "#d55e00"
"""Colours of contours and surfaces: the truth, the prediction without and with SemiSAM.

They differ in lightness too.
"""
MISSED, EXCESS = "#8a1c7c", "#9ff5d5"
"""Colours of an error: voxels of the truth that a mask lacks, and voxels that it has too many."""
_DARK = {"#0072b2": "var(--blue)", "#aa3377": "var(--plum)"}
LIGHT = {variable[4:-1]: color for color, variable in {**_VARIABLES, **_DARK}.items()}
"""The colours that a figure has outside the page, by the variable in it."""

_MARKERS = "osD^vP"
_DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5, 1.5, 1.5)), (0, (1.2, 1.2)), (0, (9, 2)))
_FONT = "DejaVu Sans"
_RC: dict[Any, Any] = {
    "font.family": _FONT,
    "font.size": 10,
    "text.parse_math": False,  # a name with dollar signs is a name
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Look:
    """The look of a row in every figure: its method's colour; hollow and dashed if bare."""

    color: str
    line: Any
    marker: str
    filled: bool

    @property
    def face(self) -> str:
        """The colour inside a marker."""
        return self.color if self.filled else PAPER


@dataclass(frozen=True)
class Made:
    """A figure of the report.

    Attributes:
        name: of its files, without ending.
        caption: its content, its method and its number of runs or cases.
        svg: for the page.
        wide: True if it takes the page's whole width.
        alt: its content in a few words.
        data: the numbers that it shows, as CSV.
    """

    name: str
    caption: str
    svg: str
    wide: bool
    alt: str
    data: str


def looks(rows: Iterable[Row]) -> dict[str, Look]:
    """Return the look of each row by its name, the same in all figures."""
    rows = list(rows)
    methods = sorted({row.method for row in rows} - {"supervised"})
    colors = {m: _METHODS[i % len(_METHODS)] for i, m in enumerate(methods)}
    colors["supervised"] = _BASELINE
    found: dict[str, Look] = {}
    for method in ("supervised", *methods):
        own = dict.fromkeys(r.name for r in rows if r.method == method and not r.with_sam)
        sam = dict.fromkeys(r.name for r in rows if r.method == method and r.with_sam)
        for i, name in enumerate(own):
            line = (0, (4, 2.5)) if i == 0 else (0, (1.5, 2.5))
            found[name] = Look(colors[method], line, _MARKERS[i % 6], filled=False)
        for i, name in enumerate(sam):
            found[name] = Look(colors[method], _DASHES[i % 4], _MARKERS[i % 6], filled=True)
    return found


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the report's style, and restore the settings afterwards."""
    with mpl.rc_context(_RC):
        yield


def new_figure(width: float = 4.9, height: float = 3.3) -> Figure:
    """Return a figure in inches; the canvas needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend above the axes, in as few rows as its texts allow."""
    if not handles:
        return
    room = figure.get_figwidth() * 13.0  # characters of the legend's size
    columns = max(1, min(len(labels), int(room / (max(map(len, labels)) + 7))))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * (rows - 1))  # leave the axes their size
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.6)


def shortened(text: str, most: int = 44) -> str:
    """Return a name that fits next to an axis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Gallery:
    """A store of figures: as PNG, PDF, SVG and CSV in a folder, and as SVG for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []

    def add(
        self,
        name: str,
        caption: str,
        alt: str,
        figure: Figure,
        data: pd.DataFrame,
        *,
        wide: bool = False,
    ) -> Made:
        """Write the files of a figure and return it for the page."""
        for kind in ("png", "pdf"):
            with replace_file(self.folder / f"{name}.{kind}") as path:
                # Without a date, the same runs make the same file.
                about = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                figure.savefig(path, format=kind, facecolor="white", metadata=about)
            figure.set_layout_engine("none")  # the slowest part, computed once
        self.files.append(name)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": name}):
            figure.savefig(text, format="svg", transparent=True, dpi=150, metadata=nothing)
        svg = text.getvalue()
        numbers = str(data.map(csv_cell).to_csv(index=False, float_format="%.5g"))
        for kind, content in (("svg", svg), ("csv", numbers)):
            with replace_file(self.folder / f"{name}.{kind}") as path:
                path.write_text(content, encoding="utf-8")
        return Made(name, caption, _for_page(svg, name, alt), wide, alt, numbers)


def _for_page(svg: str, name: str, alt: str) -> str:
    """Return an SVG for a page: with unique ids, and the colours and font of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for color, variable in {**_VARIABLES, **_DARK}.items():
        svg = re.sub(f"(?<=[ :]){color}", variable, svg)
    svg = svg.replace(f"'{_FONT}'", "var(--sans)")
    size = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    width = f"{float(size[1]) * 96 / 72:.0f}" if size else "480"
    # The style sets the width on the page; the drawn width fits the texts.
    head = re.sub(r' (width|height)="[\d.]+pt"', "", svg[: svg.index(">")])
    head += f' role="img" aria-labelledby="{name}-alt" data-width="{width}"'
    return f'{head}><title id="{name}-alt">{escape(alt)}</title>{svg[svg.index(">") + 1 :]}'
