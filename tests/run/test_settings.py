"""Settings of a run: what identifies it, and what a wrong value is answered with."""

import pytest
from tiny_runs import changed, settings_of

from semisam.core.errors import InputError
from semisam.run.settings import (
    NOT_IDENTITY,
    OF_THE_BRANCH,
    RunSettings,
    flags_of_settings,
    read_settings,
    show_value,
    validated,
)

OTHERS = {
    "labels": 3,
    "subset": 2,
    "seed": 5,
    "iterations": 7,
    "batch": 6,
    "lr": 0.5,
    "optimizer": "sgd",
    "schedule": "poly",
    "averaged": 0.9,
    "augment": "none",
    "foreground": 0.1,
    "test": "none",
    "precision": "fp32",
    "components": "largest",
    "norm_batches": 3,
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_setting_that_a_number_depends_on_is_in_the_identity(name):
    run = settings_of(labels=2)
    other = changed(run, **{name: OTHERS[name]})
    assert run.identity("d") != other.identity("d")
    assert run.identity("d") != run.identity("e")
    assert run.identity("d") == settings_of(labels=2).identity("d")


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "cuda:1"), ("checkpoint_every", 7), ("save_predictions", True), ("data", "/x")],
)
def test_the_place_and_the_record_of_a_run_are_not(name, value):
    assert name in NOT_IDENTITY
    run = settings_of(labels=2)
    assert run.identity("d") == run.model_copy(update={name: value}).identity("d")


def test_a_bare_run_does_not_depend_on_the_branch():
    bare = settings_of(labels=2, sam="none", semisam_options={"weight": 0.3})
    assert bare.identity("d") == settings_of(labels=2).identity("d")
    assert bare.title == "mt" and settings_of(labels=2, sam="geodesic").title == "mt + geodesic"
    assert set(RunSettings.model_fields) >= OF_THE_BRANCH


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": 0}, "--labels must be greater than or equal to 1, got 0"),
        ({"labels": 1, "lr": 0.0}, "--lr must be greater than 0, got 0.0"),
        ({"labels": 1, "patch": (8, 0)}, r"--patch \(value 2\) must be .* got 0"),
        ({"labels": 1, "augment": "much"}, "--augment must be .*'strong'.* got 'much'"),
        ({"labels": 1, "nonsense": 2}, "nonsense must be the name of a setting"),
        ({}, "--labels must be given"),
    ],
)
def test_a_wrong_value_is_named_by_its_option(given, message):
    with pytest.raises(InputError, match=message):
        validated(given)


def test_settings_are_read_back(tmp_path):
    run = settings_of(labels=2, sam="geodesic")
    (tmp_path / "settings.json").write_text(run.model_dump_json())
    assert read_settings(tmp_path) == run
    (tmp_path / "settings.json").write_text('{"labels": "two"}')
    with pytest.raises(InputError, match=r"must be a folder with settings\.json"):
        read_settings(tmp_path)


def test_flags_are_of_settings_and_values_are_shown_as_written():
    assert set(flags_of_settings()) < set(RunSettings.model_fields)
    assert show_value((64, 64, 48)) == "64x64x48" and show_value(0.5) == "0.5"
    assert show_value(("left organ", "b")) == "left organ,b" and show_value({7: 1}) == "7=1"
