"""The scans to label first, and a run on them."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from scan_files import scan, write
from tiny_runs import changed

from semisam.automatic.first import _windows, first_to_label
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.run.build import cases_of, open_dataset, split_of


def _cases(settings, **values):
    settings = changed(settings, **values)
    dataset = open_dataset(settings)
    return cases_of(settings, dataset, split_of(settings, dataset))


def test_named_cases_are_labeled_before_all_others_in_their_order(tiny_settings):
    listed = _cases(tiny_settings)
    train = (*listed.labeled, *listed.unlabeled)
    last, second = train[-1], train[1]
    labeled, unlabeled, _ = _cases(tiny_settings, first=f"{last}, {second}")
    assert labeled == (last, second)
    assert unlabeled == tuple(case for case in train if case not in labeled)
    labeled, unlabeled, _ = _cases(tiny_settings, first=last)
    assert labeled == (last, train[0])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"first": "nobody"}, "must name training cases, each once, got 'nobody'"),
        ({"first": "{0},{0}"}, "each once, got 'one of them twice'"),
        ({"first": "{0}", "subset": 1}, "must come with --subsets 0, got 1"),
    ],
)
def test_names_that_cannot_be_first_are_refused(tiny_settings, values, told):
    case = _cases(tiny_settings).labeled[0]
    with pytest.raises(InputError, match=told):
        _cases(tiny_settings, **{**values, "first": values["first"].format(case)})


def test_a_named_case_without_a_label_is_refused(tiny_settings, monkeypatch):
    """The next case of the list would take its place without a word."""
    train = (lambda found: (*found.labeled, *found.unlabeled))(_cases(tiny_settings))
    dataset = type(open_dataset(tiny_settings))
    monkeypatch.setattr(dataset, "has_label", lambda self, case: case != train[-1])
    named = f"{train[0]},{train[-1]}"
    with pytest.raises(InputError, match=f"cases with a label, got {train[-1]} without one"):
        _cases(tiny_settings, first=named)
    assert _cases(tiny_settings, first=named, labels=1).labeled == (train[0],)


def test_the_scans_to_label_first_are_training_cases_and_no_label_is_read(
    tiny_settings, monkeypatch
):
    dataset = open_dataset(tiny_settings)
    monkeypatch.setattr(type(dataset), "label", None)
    train = split_of(tiny_settings, dataset).train
    named = first_to_label(dataset, train, count=2)
    assert len(set(named)) == 2 and set(named) <= set(train)
    assert first_to_label(dataset, train, count=99)[:2] == named
    told = CliRunner().invoke(main, ["data", "first", tiny_settings.data, "--count", "2"])
    assert told.exit_code == 0 and told.stdout.splitlines()[-1] == ",".join(named)


def test_scans_that_resemble_a_labeled_one_are_named_later(tiny_settings):
    dataset = open_dataset(tiny_settings)
    train = split_of(tiny_settings, dataset).train
    best = first_to_label(dataset, train, count=1)
    others = [case for case in train if case not in best]
    named = first_to_label(dataset, others, count=len(others), labeled=best)
    assert set(named) == set(others)
    assert named == first_to_label(dataset, train, count=len(train))[1:]


def _named_first(folder, name):
    """Name the scans to label first of five, of which two have a label."""
    for n in range(5):
        image, label = scan(n, classes=2)
        write(folder / f"{name}{n}.nii.gz", image)
        if n < 2:
            write(folder / f"{name}{n}_label.nii.gz", label)
    return CliRunner().invoke(main, ["data", "first", str(folder)])


def test_a_folder_with_a_few_labels_names_scans_without_one(tmp_path):
    told = _named_first(tmp_path, "p")
    assert told.exit_code == 0, told.output
    assert sorted(told.stdout.splitlines()[-1].split(",")) == ["p2", "p3", "p4"]


def test_a_name_that_no_list_can_hold_is_refused(tmp_path):
    told = _named_first(tmp_path, "smith, ")
    assert told.exit_code == 2 and "names in a list must have no comma, got smith, " in told.output


@pytest.mark.parametrize(
    ("size", "patch", "count"),
    [
        ((40, 30, 20), (32, 32, 32), 2),  # padded where it is smaller
        ((96, 64, 33), (32, 32, 32), 3 * 2 * 2),  # covered
        ((320, 32, 320), (32, 32, 32), 3 * 3),  # with gaps
        ((40, 32, 50), (32, 32), 2 * 14),  # slices of a volume
        ((32, 32), (32, 32), 1),
    ],
)
def test_a_scan_is_seen_in_few_windows_from_end_to_end(size, patch, count):
    image = torch.arange(1.0, 1 + torch.Size(size).numel()).reshape(1, *size)
    seen = list(_windows(image, patch))
    assert len(seen) == count and {w.shape for w in seen} == {(1, 1, *patch)}
    voxels = torch.cat([w.flatten() for w in seen]).unique()
    assert voxels[-1] == image.max() and voxels[voxels > 0][0] == 1
    if len(size) == len(patch) and max(size) <= 3 * min(patch):
        assert len(voxels[voxels > 0]) == image.numel()
