"""The outputs for a person: ``volumes.csv``, the contact sheet and the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from PIL import Image as Pictures
from PIL import ImageDraw

from semisam import __version__
from semisam.automatic.advice import Advice
from semisam.automatic.plan import Plan
from semisam.automatic.shelf import Shelf
from semisam.automatic.survey import Survey
from semisam.bench.report.page import page_style
from semisam.core.files import replace_file, write_csv
from semisam.core.types import IGNORE
from semisam.inference.masks import preview_file
from semisam.inference.trust import Correction, Interval, ranked_dice, reasons_for_distrust
from semisam.inference.volumes import Volume, volumes

VOLUMES, SHEET, PAGE = "volumes.csv", "sheet.png", "index.html"
_WIDTH, _COLUMNS, _HEAD = 460, 3, 18  # pixels of a picture in the sheet, and of its title
_YOURS, _IN_PART, _CHANGED = "yours", "yours, in part", "changed by you"

Changed = Mapping[str, tuple[Volume, ...]]
Previews = Mapping[str, Pictures.Image]


@dataclass(frozen=True)
class Line:
    """One scan on the page.

    Attributes:
        case: its name.
        source: ``yours``, ``yours, in part``, ``changed by you``, ``first`` or ``final``.
        volumes: of each foreground class.
        dice: predicted Dice by class; empty without a prediction.
        reasons: for distrust, by class.
        picture: the preview; ``None`` without one.
    """

    case: str
    source: str
    volumes: tuple[Volume, ...]
    dice: tuple[Interval, ...] = ()
    reasons: tuple[str, ...] = ()
    picture: Path | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """The lowest predicted Dice; your own masks come last."""
        return not self.dice and not self.picture, min((d.dice for d in self.dice), default=1.0)


def write_page(
    data: Survey,
    shelf: Shelf,
    plan: Plan,
    changed: Changed,
    upcoming: Sequence[Advice] = (),
    by: Correction | None = None,
) -> None:
    """Write the table, the contact sheet and the page of a folder of masks.

    Args:
        data: the cases.
        shelf: the masks.
        plan: of the runs.
        changed: volumes of the masks that a person changed, by case.
        upcoming: the scans to label next, the first of them first.
        by: the correction of the predicted Dice.
    """
    lines = sorted(_lines(data, shelf, changed, by), key=lambda line: line.rank)
    advice = {
        one.case: {"label_next": rank, "slices_next": " ".join(map(str, one.slices))}
        for rank, one in enumerate(upcoming, start=1)
    }
    no_advice = {"label_next": "", "slices_next": ""}
    rows = [{**row, **advice.get(line.case, no_advice)} for line in lines for row in _rows(line)]
    write_csv(shelf.folder / VOLUMES, rows)
    found = {line.case: _small(line.picture) for line in lines if line.picture}
    pictures = {case: picture for case, picture in found.items() if picture is not None}
    _write_sheet(shelf.folder / SHEET, [line for line in lines if line.case in pictures], pictures)
    _write_html(shelf.folder / PAGE, data, plan, lines, pictures, upcoming, by)


def _lines(data: Survey, shelf: Shelf, changed: Changed, by: Correction | None) -> list[Line]:
    yours = [_of_label(data, case) for case in data.labeled]
    yours += [Line(case, _CHANGED, volumes) for case, volumes in changed.items()]
    ours = (case for case in data.unlabeled if case not in changed)
    known = {case: entry for case in ours if (entry := shelf.entries.get(case))}
    everything = [
        # The volume of a mask that is annotated in part says nothing about that of an organ.
        *(line.volumes for line in yours if line.volumes and line.source != _IN_PART),
        *(e.volumes for e in known.values()),
    ]
    judged = [case for case, entry in known.items() if entry.agreement]
    of_classes = [
        ranked_dice(signals, by)
        for signals in zip(*(known[case].agreement for case in judged), strict=True)
    ]
    predicted = dict(zip(judged, zip(*of_classes, strict=True), strict=True))
    agreements = [known[case].agreement for case in judged]
    lines = []
    for case, entry in known.items():
        picture = preview_file(shelf.folder / entry.file)
        dice = predicted.get(case, ())
        reasons = reasons_for_distrust(entry.volumes, everything, entry.agreement, agreements)
        shown = picture if picture.is_file() else None
        lines.append(Line(case, entry.stage, entry.volumes, dice, reasons, shown))
    return lines + yours


def _of_label(data: Survey, case: str) -> Line:
    image = data.opened.image(case)
    place = image.geometry if image.placement is None else image.placement.geometry
    label = data.opened.drawn_label(case)
    source = _IN_PART if bool((label == IGNORE).any()) else _YOURS
    return Line(case, source, tuple(volumes(case, label, place, data.opened.class_names)))


def _rows(line: Line) -> list[dict[str, object]]:
    """Return the rows of a scan, one per class."""
    rows: list[dict[str, object]] = []
    for at, size in enumerate(line.volumes):
        dice = line.dice[at] if line.dice else None
        rows.append(
            {
                **size.row(),
                "mask": line.source,
                "predicted_dice": "" if dice is None else round(dice.dice, 3),
                "dice_low": "" if dice is None else round(dice.low, 3),
                "dice_high": "" if dice is None else round(dice.high, 3),
                "reasons": line.reasons[at] if line.reasons else "",
            }
        )
    return rows


def _write_sheet(path: Path, lines: Sequence[Line], pictures: Previews) -> None:
    """Write one picture of all previews, the least trusted first."""
    if not lines:
        return
    height = max(picture.height for picture in pictures.values()) + _HEAD
    rows = -(-len(lines) // _COLUMNS)
    sheet = Pictures.new("RGB", (_COLUMNS * _WIDTH, rows * height))
    draw = ImageDraw.Draw(sheet)
    for at, line in enumerate(lines):
        left, top = at % _COLUMNS * _WIDTH, at // _COLUMNS * height
        sheet.paste(pictures[line.case], (left, top + _HEAD))
        low = min((d.dice for d in line.dice), default=None)
        text = line.case if low is None else f"{line.case}: Dice {100 * low:.0f} predicted"
        draw.text((left + 6, top + 3), text, fill="white")
    with replace_file(path) as temporary:
        sheet.save(temporary, format="PNG")


def _small(path: Path) -> Pictures.Image | None:
    """Return a preview in the width of the sheet; ``None`` of a damaged file."""
    try:
        with Pictures.open(path, formats=("PNG",)) as picture:
            whole = picture.convert("RGB")
    except Exception:  # a damaged file may raise anything
        return None
    return whole.resize((_WIDTH, max(round(whole.height * _WIDTH / whole.width), 1)))


def _embedded(picture: Pictures.Image | None) -> str:
    """Return a preview as text for a page."""
    if picture is None:
        return ""
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _write_html(
    path: Path,
    data: Survey,
    plan: Plan,
    lines: Sequence[Line],
    pictures: Previews,
    upcoming: Sequence[Advice],
    by: Correction | None,
) -> None:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = resources.files("semisam.automatic").joinpath("page.html.j2").read_text("utf-8")
    page = environment.from_string(text).render(
        css=page_style(),
        title=f"Masks of {data.path.name}",
        data=data,
        plan=plan,
        rows=[(line, _embedded(pictures.get(line.case))) for line in lines],
        by=by,
        upcoming=upcoming,
        trusted=any(line.dice for line in lines),
        version=__version__,
    )
    with replace_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
