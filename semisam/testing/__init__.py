"""Contract tests for plugin authors to subclass; every built-in plugin passes them.

The classes are plain pytest style; importing them needs no pytest::

    from semisam.testing import FrameworkContract

    class TestMyMethod(FrameworkContract):
        def make(self, build, num_classes):
            return MyMethod(build, num_classes)

The message of a failed check states the rule of the contract.
"""

from semisam.testing.backend import BackendContract, FakeBackend
from semisam.testing.dataset import DatasetContract
from semisam.testing.framework import FrameworkContract
from semisam.testing.logger import LoggerContract
from semisam.testing.network import NetworkContract
from semisam.testing.prompter import FakePrompter, PrompterContract
from semisam.testing.samples import random_batch, tiny_builder

__all__ = [
    "BackendContract",
    "DatasetContract",
    "FakeBackend",
    "FakePrompter",
    "FrameworkContract",
    "LoggerContract",
    "NetworkContract",
    "PrompterContract",
    "random_batch",
    "tiny_builder",
]
