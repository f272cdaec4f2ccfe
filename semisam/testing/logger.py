"""The contract of a logger, as tests."""

from __future__ import annotations

import contextlib
import math
import os
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semisam.core.logger import Logger

Logged = Mapping[int, Mapping[str, float]]
"""Figures by step."""

_SETTINGS: Mapping[str, Any] = {
    **{"method": "mt", "iterations": 5, "lr": 0.01, "clip": None, "patch": [16, 16, 16]},
    **{"save_predictions": False, "method_options": {"ema_decay": 0.99}},
}


class LoggerContract:
    """Tests of a logger. Subclass it and define ``make``; define ``logged`` where it can be read.

    Each test has an empty folder as the working folder, too.
    """

    def make(self) -> Logger:
        """Return a logger that needs no account and no network."""
        raise NotImplementedError("define make(self)")

    def logged(self, folder: Path) -> Logged | None:
        """Return what the service has of the run in this folder; ``None``: it cannot be read."""
        return None

    def test_has_its_parts(self) -> None:
        """Check the three methods."""
        with _empty_folder():
            missing = [n for n in ("open", "log", "close") if not hasattr(self.make(), n)]
        assert not missing, f"a logger must have open, log and close, got none of {missing}"

    def test_constructor_writes_nothing(self) -> None:
        """Check that a logger writes no file before it is opened."""
        with _empty_folder() as folder:
            self.make()
            found = sorted(path.name for path in folder.iterdir())
        assert not found, f"the constructor must write nothing, got {found}"

    def test_figures_arrive(self) -> None:
        """Check that every figure of every step arrives."""
        with _empty_folder() as folder:
            self._run(folder, 0, _figures(5))
            self._check(folder, _figures(5))

    def test_a_resumed_run_has_each_step_once(self) -> None:
        """Check a run that was killed after step 3, with a checkpoint after step 1."""
        with _empty_folder() as folder:
            self._run(folder, 0, {step: _figures(5)[step] for step in range(4)})
            self._run(folder, 2, {step: _figures(5)[step] for step in range(2, 5)})
            self._check(folder, _figures(5))

    def test_runs_of_two_folders_are_two(self) -> None:
        """Check that runs whose folders have one name in two places stay apart."""
        with _empty_folder() as folder:
            ours = {"one": _figures(3), "two": {0: {"loss": 9.0}}}
            for place, figures in ours.items():
                (folder / place / "run").mkdir(parents=True)
                self._run(folder / place / "run", 0, figures)
            for place, figures in ours.items():
                self._check(folder / place / "run", figures)

    def test_a_figure_may_be_absent_or_not_finite(self) -> None:
        """Check steps with other figures, and figures without a finite value."""
        with _empty_folder() as folder:
            self._run(folder, 0, {0: {"loss": 1.0}, 1: {"loss": math.nan, "rare": math.inf}, 2: {}})

    def test_a_figure_may_have_any_name(self) -> None:
        """Check names with spaces and signs, as methods may choose them."""
        with _empty_folder() as folder:
            self._run(folder, 0, {0: {"share of <sure> %": 0.5, "größe": 1.0, "a/b.c": 2.0}})

    def test_a_run_may_end_before_its_first_step(self) -> None:
        """Check that a logger can be closed without a figure."""
        with _empty_folder() as folder:
            self._run(folder, 0, {})

    def test_figures_are_left_as_they_were(self) -> None:
        """Check that a logger changes neither figures nor settings."""
        with _empty_folder() as folder:
            figures, settings = {"loss": 1.0}, dict(_SETTINGS)
            logger = self.make()
            logger.open(folder, settings, 0)
            logger.log(0, figures)
            logger.close()
        assert figures == {"loss": 1.0}, "a logger must not change the figures"
        assert settings == _SETTINGS, "a logger must not change the settings"

    def test_no_global_generator_is_used(self) -> None:
        """Check that the global generators of torch, NumPy and Python stay unchanged."""
        with _empty_folder() as folder:
            before = _states()
            self._run(folder, 0, _figures(2))
            assert _states() == before, "a logger must not draw from a global generator"

    def _run(self, folder: Path, start: int, figures: Logged) -> None:
        logger = self.make()
        logger.open(folder, dict(_SETTINGS), start)
        for step, found in figures.items():
            logger.log(step, dict(found))
        logger.close()

    def _check(self, folder: Path, expected: Logged) -> None:
        found = self.logged(folder)
        if found is None:
            return
        assert sorted(found) == sorted(expected), (
            f"every step must be logged once, of {sorted(expected)}, got {sorted(found)}"
        )
        for step, figures in expected.items():
            same = found[step].keys() == figures.keys() and all(
                math.isclose(found[step][name], value, rel_tol=1e-6)
                for name, value in figures.items()
            )
            assert same, f"step {step} must have the figures {figures}, got {dict(found[step])}"


def _figures(steps: int) -> dict[int, dict[str, float]]:
    return {step: {"loss": 1.0 / (step + 1), "lr": 0.01, "ce": 0.25} for step in range(steps)}


def _states() -> list[str]:
    states = (torch.get_rng_state().tolist(), np.random.get_state(legacy=False), random.getstate())
    return [repr(state) for state in states]


@contextlib.contextmanager
def _empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        before = Path.cwd()
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)
