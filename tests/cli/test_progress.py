"""The time left of a grid: right for one run and for several, and never a bar that goes back."""

from __future__ import annotations

import pytest

from semisam.cli.progress import TimeLeft


class Grid:
    """Runs of known lengths on some places, played in steps of a second."""

    def __init__(self, lengths, places=1):
        self.now = 0.0
        self.lengths = lengths
        self.places = places
        self.left = TimeLeft({name: name[0] for name in lengths}, now=lambda: self.now)
        self.shown = []  # (estimate, truth, share)

    def play(self):
        waiting, began = list(self.lengths), {}
        end = self._end()
        while waiting or began:
            for name in [n for n in began if self.now - began[n] >= self.lengths[n]]:
                del began[name]
                self.left.ended(name, True)
            while waiting and len(began) < self.places:
                began[waiting[0]] = self.now
                self.left.started(waiting.pop(0))
            for name, start in began.items():
                # Training is 10 parts of 11, as the estimate assumes before a run has ended.
                steps = (self.now - start) / self.lengths[name] * 110
                phase = ("train", 100, steps) if steps < 100 else ("evaluate", 10, steps - 100)
                state = dict(zip(("phase", "total", "done"), phase, strict=True))
                self.left.moved(name, {**state, "done": int(state["done"])})
            self.shown.append((self.left.seconds(), end - self.now, self.left.share()))
            self.now += 1.0
        return self

    def _end(self):
        ends = [0.0] * self.places
        for length in self.lengths.values():
            first = ends.index(min(ends))
            ends[first] += length
        return max(ends)


@pytest.mark.parametrize("places", [1, 2, 3])
def test_runs_of_one_kind_end_when_the_estimate_says(places):
    grid = Grid(dict.fromkeys(["a1", "a2", "a3", "a4", "a5", "a6"], 200.0), places).play()
    late = [row for row in grid.shown if row[0] is not None and row[2] > 0.1]
    assert len(late) > 0.8 * len(grid.shown)
    for estimate, truth, _ in late:
        assert estimate == pytest.approx(truth, rel=0.1, abs=15)


def test_a_kind_that_takes_longer_is_known_after_its_first_run():
    lengths = {"a1": 100.0, "b1": 300.0, "a2": 100.0, "b2": 300.0}
    grid = Grid(lengths).play()
    after = [row for row in grid.shown if row[1] < 390]
    for estimate, truth, _ in after:
        assert estimate == pytest.approx(truth, rel=0.1, abs=15)


def test_the_bar_never_goes_back_and_ends_full():
    grid = Grid({"a1": 50.0, "b1": 400.0, "a2": 50.0, "b2": 400.0, "c1": 10.0}, 2).play()
    shares = [share for _, _, share in grid.shown]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0, abs=0.05)


def test_nothing_is_claimed_while_nothing_is_known():
    left = TimeLeft({"a": 0, "b": 0}, now=lambda: 0.0)
    assert left.seconds() is None and left.share() == 0.0
    left.started("a")
    left.moved("a", {"phase": "train", "done": 0, "total": 100})
    assert left.seconds() is None


def test_a_resumed_run_is_timed_from_where_it_began():
    now = [0.0]
    left = TimeLeft({"a": 0}, now=lambda: now[0])
    left.started("a")
    left.moved("a", {"phase": "train", "done": 900, "total": 1000})
    now[0] = 10.0
    left.moved("a", {"phase": "train", "done": 910, "total": 1000})
    assert left.seconds() == pytest.approx(90 + 0.1 * 100)


def test_runs_that_were_finished_earlier_tell_nothing_about_time():
    now = [0.0]
    left = TimeLeft({"a": 0, "b": 0}, now=lambda: now[0])
    assert left.ended("a", False) is None
    assert left.seconds() is None
    left.started("b")
    now[0] = 60.0
    assert left.ended("b", True) == 60.0
    assert left.seconds() == 0.0 and left.share() == 1.0


def test_a_long_evaluation_is_known_after_the_first_run():
    now = [0.0]
    left = TimeLeft({"a": 0, "b": 1}, now=lambda: now[0])
    left.started("a")
    for phase, seconds in (("train", 100), ("evaluate", 300)):
        for done in range(0, 101, 50):
            left.moved("a", {"phase": phase, "done": done, "total": 100})
            now[0] += seconds / 2 * (done < 100)
    left.ended("a", True)
    left.started("b")
    left.moved("b", {"phase": "train", "done": 0, "total": 100})
    now[0] += 200
    left.moved("b", {"phase": "train", "done": 80, "total": 100})
    assert left.seconds() == pytest.approx(50 + 300)
