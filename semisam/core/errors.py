"""What goes wrong, in one sentence each."""


class SemisamError(Exception):
    """Base of every error that semisam raises on purpose."""


class InputError(SemisamError):
    """The user's input is not usable; the message says what is required, what came, the way out.

    The command line prints the message alone and exits with code 2.
    """


class InUse(InputError):
    """Another process is at work in the folder; it lets go when it ends, however it ends."""


class PluginError(SemisamError):
    """A plugin is unknown, broken, colliding or wrongly configured."""


class SemisamWarning(UserWarning):
    """Base of every warning that semisam emits."""
