"""Faults of a dataset, each with its file and a remedy."""

from __future__ import annotations

from dataclasses import dataclass

from semisam.core.errors import InputError


@dataclass(frozen=True)
class Fault:
    """A fault in a dataset.

    Attributes:
        file: the faulty file or folder.
        problem: the rule and the value that breaks it.
        remedy: the advice, in lower case and without a period.
        case: that the file belongs to by its name, if no image or label of a case is that file.
    """

    file: str
    problem: str
    remedy: str
    case: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}. {self.remedy[:1].upper()}{self.remedy[1:]}."


def fault_of(file: str, error: InputError) -> Fault:
    """Split an error's message into file, problem and remedy."""
    message = str(error).removeprefix(f"{file}: ").removesuffix(".")
    problem, _, remedy = message.rpartition(". ")
    if not problem:
        return Fault(file, message, "correct it")
    return Fault(file, problem, f"{remedy[:1].lower()}{remedy[1:]}")
