"""The folder of masks, which keeps apart its own masks and those that a person changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from semisam.core.errors import InputError
from semisam.core.files import digest_of_path, read_json, write_json
from semisam.inference.masks import preview_file
from semisam.inference.volumes import Volume

RECORD = "masks.json"
FIRST, FINAL = "first", "final"
"""The stages of a mask: made without a training, and by the trained network."""


class ChangedMask(Exception):
    """A person saved a mask while another one was made for its place."""


@dataclass(frozen=True)
class Entry:
    """One mask that was written.

    Attributes:
        file: its name in the folder.
        stage: ``first`` or ``final``.
        run: name of the run that predicted it; empty until the mask is finished.
        sha256: of the file; empty until the first mask of a scan is written.
        before: SHA-256 of the mask that this one replaces; empty once it is finished.
        volumes: of each foreground class.
        agreement: the signals of each foreground class; empty if they were not measured.
        features: the scan's vector, as of `semisam.automatic.coverage.Description`, as text.
        scan: state of the scan's files, as of `semisam.automatic.survey.Survey.state`.
        classes: names of the foreground classes.
    """

    file: str
    stage: str
    run: str
    sha256: str = ""
    before: str = ""
    volumes: tuple[Volume, ...] = ()
    agreement: tuple[Mapping[str, float], ...] = field(default=())
    features: str = ""
    scan: str = ""
    classes: tuple[str, ...] = ()

    def is_about(self, other: Entry) -> bool:
        """Return whether both are of the same scan and classes."""
        return (self.scan, self.classes) == (other.scan, other.classes)


class Shelf:
    """The masks of a folder, with a record of each.

    Args:
        folder: exists.

    Raises:
        InputError: the record is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        record = folder / RECORD
        try:
            raw = read_json(record) if record.exists() else {"masks": {}}
            self.entries = _ENTRIES.validate_python((raw or {}).get("masks"))
        except ValidationError:
            raise InputError(
                f"{record}: the file must be as semisam wrote it, got a damaged one. Restore it, "
                "or name another folder with -o: without it your changes are not known."
            ) from None

    def is_ours(self, name: str, file: Path) -> bool:
        """Return whether a mask is missing or is as it was written, so it may be replaced."""
        if not file.is_file():
            return True
        known = self.entries.get(name)
        return known is not None and digest_of_path(file) in (known.sha256, known.before)

    def holds(self, name: str, entry: Entry) -> bool:
        """Return whether a scan has a mask of this run, or a final one where a first is to come.

        A mask of a scan whose file was replaced since does not count, nor one of other classes.
        """
        known = self.entries.get(name)
        if known is None or not known.run or not known.is_about(entry):
            return False  # none, or one that was not finished
        if not (self.folder / entry.file).is_file():
            return False
        return known.run == entry.run or (known.stage == FINAL and entry.stage != FINAL)

    def begin(self, name: str, entry: Entry) -> None:
        """Record that a mask is about to be written, in the place of one of ours or of none."""
        file = self.folder / entry.file
        there = digest_of_path(file) if file.is_file() and self.is_ours(name, file) else ""
        self.entries[name] = replace(entry, sha256=there, run="")
        self._save()

    def wrote(self, name: str, temporary: Path) -> None:
        """Record the mask that was begun, which is not yet judged, before it gets its name.

        After a stop at any time, the file is known as the mask before or as this one. Any other
        file of its name is a person's.

        Raises:
            ChangedMask: a file of a person is there, which must stay.
        """
        entry = self.entries[name]
        self.entries[name] = replace(entry, sha256=digest_of_path(temporary), before=entry.sha256)
        self._save()
        if not self.is_ours(name, self.folder / entry.file):
            raise ChangedMask

    def finish(self, name: str, entry: Entry) -> None:
        """Record a judged mask, by the digest of when it was written."""
        known = self.entries[name].sha256 if name in self.entries else ""
        self.entries[name] = replace(
            entry, sha256=known or digest_of_path(self.folder / entry.file)
        )
        self._save()

    def take_off(self, name: str) -> bool:
        """Remove the mask of a scan that has one of the user now; return False if it was changed.

        A changed one stays, and so does its record.
        """
        entry = self.entries.get(name)
        if entry is None:
            return True
        file = self.folder / Path(entry.file).name
        if not self.is_ours(name, file):
            return False
        preview_file(file).unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        del self.entries[name]
        self._save()
        return True

    def _save(self) -> None:
        masks = {name: asdict(entry) for name, entry in self.entries.items()}
        write_json(self.folder / RECORD, {"masks": masks})


_ENTRIES = TypeAdapter(dict[str, Entry])
