"""The log of a study: what happened to its runs, and when, in the words of the terminal."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from semisam.core.files import printable
from semisam.core.layout import STUDY_LOG

LOG = logging.getLogger("semisam.study")
LOG.addHandler(logging.NullHandler())  # without a study nothing is printed
_FORM = "%(asctime)s %(levelname)s %(message)s"


@contextlib.contextmanager
def logged(folder: Path, *, verbose: bool = False) -> Iterator[None]:
    """Append to the log of a study's folder in a ``with`` block.

    Args:
        folder: of the study, which exists.
        verbose: write the lines that the terminal lacks on standard error as well.
    """
    handlers: list[logging.Handler] = [
        logging.FileHandler(folder / STUDY_LOG, encoding="utf-8", delay=True)
    ]
    if verbose:
        more = logging.StreamHandler()
        more.addFilter(lambda record: record.levelno < logging.INFO)
        handlers.append(more)
    LOG.setLevel(logging.DEBUG)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORM))
        LOG.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()


def log(text: str, level: int = logging.INFO) -> None:
    """Write a line to the log, if there is one; a text of several lines becomes one.

    Args:
        text: of the line.
        level: of `logging`; DEBUG for what the terminal shows only with ``--verbose``.
    """
    LOG.log(level, "%s", printable(" ".join(text.split())))
