"""Errors and warnings. A message is "<Field> must <rule>, got <value>. <What to do>."."""

from collections.abc import Sequence


class SemisamError(Exception):
    """Base of every error that semisam raises on purpose."""


class InputError(SemisamError):
    """The user's input is not usable; the message gives the rule, the value and a remedy.

    The command line prints only the message and exits with code 2.
    """


class InUse(InputError):
    """Another process holds the folder's lock; the lock ends with that process."""


class PluginError(SemisamError):
    """A plugin is unknown, broken, colliding or wrongly configured."""


class BrokenPlugin(PluginError):
    """A plugin cannot be imported, or its own code fails."""


class UnservedHeads(PluginError, ValueError):
    """A method does not suit the network or the classes of a run; other methods may."""


class SemisamWarning(UserWarning):
    """Base of every warning that semisam emits."""


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Return the first names of a list for a message, with dots for the others."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text for a message, or its kind if it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
