"""The options of a command line follow from the settings of a run."""

import click
import pytest
from click.testing import CliRunner
from site_pages import commands

from semisam.cli.main import main
from semisam.cli.options import (
    Duration,
    Names,
    Numbers,
    Size,
    assignments,
    given_settings,
    run_options,
)
from semisam.core.errors import InputError
from semisam.run.settings import GROUPS, Flag, RunSettings, flags_of_settings


@click.command()
@run_options
def show(**given):
    settings, options = given_settings(given)
    click.echo(repr((settings, options)))


def run(*arguments):
    result = CliRunner().invoke(show, arguments)
    assert result.exit_code == 0, result.output
    return eval(result.output)


def test_each_setting_has_its_option():
    text = CliRunner().invoke(show, ["--help"]).output
    for name in flags_of_settings():
        assert f"--{name.replace('_', '-')}" in text


def test_values_have_the_type_of_their_setting():
    settings, options = run(
        *("--patch", "64x64x48", "--lr", "0.1", "--batch", "6", "--fold", "2"),
        *("--augment", "strong", "--components", "largest", "--set", "mt.ema_decay=0.9"),
    )
    assert settings == {
        "patch": (64, 64, 48),
        "lr": 0.1,
        "batch": 6,
        "fold": 2,
        "augment": "strong",
        "components": "largest",
    }
    assert options == {"mt.ema_decay": "0.9"}


def test_nothing_given_is_nothing_set():
    assert run() == ({}, {})


@pytest.mark.parametrize("text", ["a,,b", ""])
def test_names_are_not_empty(text):
    with pytest.raises(click.BadParameter):
        Names().convert(text, None, None)
    assert Names().convert("a, b,a", None, None) == ("a", "b")


def test_numbers_and_sizes():
    assert Numbers().convert("1,2,1", None, None) == (1, 2)
    assert Size().convert("64X64,48", None, None) == (64, 64, 48)
    for kind in (Numbers(), Size()):
        with pytest.raises(click.BadParameter):
            kind.convert("two", None, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [("0-4", (0, 1, 2, 3, 4)), ("3-3", (3,)), ("0-2,7,1", (0, 1, 2, 7)), ("-1,2", (-1, 2))],
)
def test_numbers_may_be_ranges(text, found):
    assert Numbers().convert(text, None, None) == found
    assert Numbers(times=True).convert(text, None, None) == found


def test_a_number_of_times_counts_from_0():
    assert Numbers(times=True).convert("3x,9", None, None) == (0, 1, 2, 9)
    with pytest.raises(click.BadParameter, match="whole numbers separated by commas, or a range"):
        Numbers().convert("3x", None, None)


@pytest.mark.parametrize("text", ["4-0", "0x", "x", "1-", "0-1000000000", "2000x", "1-2-3"])
def test_a_wrong_range_is_refused(text):
    with pytest.raises(click.BadParameter, match="or 5x, got"):
        Numbers(times=True).convert(text, None, None)


def test_every_setting_with_a_flag_is_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    flagged = {
        name
        for name, field in RunSettings.model_fields.items()
        if any(isinstance(item, Flag) for item in field.metadata)
    }
    assert len(grouped) == len(set(grouped)) and set(grouped) == flagged


def test_help_has_the_groups_in_order_and_defaults_in_one_style():
    text = CliRunner().invoke(main, ["bench", "--help"], terminal_width=200).output
    titles = ["The grid", *GROUPS, "Plugins", "Options", "Examples"]
    places = [text.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    batches = text[text.index("\nBatches:") : text.index("\nOptimizer:")]
    assert "--patch" in batches and "--lr" not in batches
    assert "[default: local]" in text and "  [default" not in text and "(default" not in text


def test_assignments():
    assert assignments(["a.b=1", "a.c=x=y"]) == {"a": {"b": "1", "c": "x=y"}}
    with pytest.raises(InputError):
        assignments(["nonsense"])


def test_times_have_a_unit():
    found = [Duration().convert(text, None, None) for text in ("90s", "30m", "1.5h")]
    assert found == [90.0, 1800.0, 5400.0]
    for wrong in ("30", "30 minutes", "0m", "-5m", "m"):
        with pytest.raises(click.BadParameter, match="a time such as 90s, 30m or 12h, got"):
            Duration().convert(wrong, None, None)


def test_a_device_is_chosen_alike_everywhere():
    options = [p for _, c in commands(main, "semisam") for p in c.params if p.name == "device"]
    assert len(options) > 9
    assert {option.help.partition(" [default")[0] for option in options} == {
        flags_of_settings()["device"].help
    }


@pytest.mark.parametrize("command", ["zero-shot", "pretrain synthsam"])
def test_a_missing_device_is_one_sentence(command, tmp_path):
    asked = [*command.split(), "--device", "tpu9", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2 and "--device must be one that torch can use" in result.stderr
    assert not list(tmp_path.glob("out/*"))


def test_the_help_shows_the_defaults_of_the_protocol_default():
    shown = " ".join(
        CliRunner().invoke(main, ["train", "--help"], terminal_width=500).output.split()
    )
    for option, value in {
        "--optimizer": "adamw", "--schedule": "fall", "--lr": "0.0003", "--weight-decay": "0.02",
        "--clip": "1.0; no", "--averaged": "0.98", "--augment": "strong", "--foreground": "0.003",
        "--components": "as-labeled", "--momentum": "0.9",
    }.items():  # fmt: skip
        assert shown.split(f" {option} ")[1].split("[default: ")[1].startswith(value), option
