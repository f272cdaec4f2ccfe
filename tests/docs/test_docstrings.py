"""The examples in docstrings run as they are printed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import semisam

ROOT = Path(semisam.__file__).parent


def _modules():
    for path in sorted(ROOT.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            parts = ("semisam", *path.relative_to(ROOT).with_suffix("").parts)
            yield ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("name", list(_modules()))
def test_examples_of(name, tmp_path):
    found = doctest.testmod(importlib.import_module(name), extraglobs={"folder": tmp_path / "run"})
    assert found.attempted > 0
    assert found.failed == 0


def test_every_name_of_the_package_is_documented_and_loads():
    for name in semisam.__all__:
        assert getattr(semisam, name) is not None
        if name != "__version__":
            assert (getattr(semisam, name).__doc__ or "").strip()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = semisam.trane
