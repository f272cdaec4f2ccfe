"""The options of a command line follow from the settings of a run."""

import click
import pytest
from click.testing import CliRunner

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
from semisam.run.settings import flags_of_settings


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
        *("--augment", "strong", "--largest-component", "--set", "mt.ema_decay=0.9"),
    )
    assert settings == {
        "patch": (64, 64, 48),
        "lr": 0.1,
        "batch": 6,
        "fold": 2,
        "augment": "strong",
        "largest_component": True,
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
