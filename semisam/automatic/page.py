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
from semisam.automatic.trust import Correction, Interval, ranked_dice, reasons_for_distrust
from semisam.bench.report.page import page_style
from semisam.core.files import replace_file, write_csv
from semisam.data.datasets.labels import is_partial
from semisam.inference.masks import preview_file
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
        dice: predicted Dice by class, ``None`` of a class that may be rightly nowhere; empty
            without a prediction.
        reasons: for distrust, by class.
        picture: the preview; ``None`` without one.
    """

    case: str
    source: str
    volumes: tuple[Volume, ...]
    dice: tuple[Interval | None, ...] = ()
    reasons: tuple[str, ...] = ()
    picture: Path | None = None

    @property
    def lowest(self) -> float | None:
        """The lowest predicted Dice; ``None`` without a prediction."""
        return min((d.dice for d in self.dice if d is not None), default=None)

    @property
    def rank(self) -> tuple[bool, float]:
        """The lowest predicted Dice; an empty mask comes first, your own masks last."""
        without = 0.0 if self.dice else 1.0
        return not self.dice and not self.picture, without if self.lowest is None else self.lowest


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
    classes = data.opened.class_names[1:]
    known = {
        case: entry
        for case in ours
        if (entry := shelf.entries.get(case)) and entry.run and entry.classes == classes
    }
    everything = [
        # The volume of a mask that is annotated in part says nothing about that of an organ.
        *(line.volumes for line in yours if line.volumes and line.source != _IN_PART),
        *(e.volumes for e in known.values()),
    ]
    held = _held(data, [line.volumes for line in yours if line.source == _YOURS])
    judged = {case: entry.agreement for case, entry in known.items() if entry.agreement}
    of_classes = [
        _predicted([signals[at] for signals in judged.values()], always, by)
        for at, (_, always) in enumerate(held)
    ]
    predicted = dict(zip(judged, zip(*of_classes, strict=True), strict=True))
    some = [ever for ever, _ in held]
    lines = []
    for case, entry in known.items():
        picture = preview_file(shelf.folder / entry.file)
        dice = predicted.get(case, ())
        reasons = reasons_for_distrust(
            entry.volumes, everything, entry.agreement, tuple(judged.values()), some
        )
        shown = picture if picture.is_file() else None
        lines.append(Line(case, entry.stage, entry.volumes, dice, reasons, shown))
    return lines + yours


def _held(data: Survey, labels: Sequence[Sequence[Volume]]) -> list[tuple[bool, bool]]:
    """Return for each class whether a complete label holds it, and whether each does.

    Without a complete label nothing is known, and a class that is nowhere counts as missed.
    """
    found = [
        [bool(sizes[at].voxels) for sizes in labels] for at in range(data.opened.num_classes - 1)
    ]
    return [(not of_class or any(of_class), all(of_class)) for of_class in found]


def _predicted(
    signals: Sequence[Mapping[str, float]], always: bool, by: Correction | None
) -> list[Interval | None]:
    """Return the predicted Dice of one class in all masks.

    Args:
        signals: of each mask.
        always: each label holds the class. Else a mask without it may be right, and has no
            prediction.
        by: the correction.
    """
    ranked = [at for at, one in enumerate(signals) if always or any(one.values())]
    dealt = dict(zip(ranked, ranked_dice([signals[at] for at in ranked], by), strict=True))
    return [dealt.get(at) for at in range(len(signals))]


def _of_label(data: Survey, case: str) -> Line:
    image = data.opened.image(case)
    place = image.geometry if image.placement is None else image.placement.geometry
    label = data.opened.drawn_label(case)
    source = _IN_PART if is_partial(label) else _YOURS
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
        low = line.lowest
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
