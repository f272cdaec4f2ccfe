"""Read a constructor's options from its signature and convert values to their types."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

RESERVED: Mapping[str, frozenset[str]] = {
    "framework": frozenset({"build", "num_classes"}),
    "network": frozenset({"in_channels", "heads"}),
    "dataset": frozenset({"path"}),
}
"""Parameters that a run fills in. They are never options, even as keyword-only parameters."""

_UNRESOLVED = object()


@dataclass(frozen=True)
class Parameter:
    """A keyword-only parameter: name, resolved annotation and default."""

    name: str
    annotation: Any
    type_name: str
    default: Any
    required: bool

    @property
    def is_choice(self) -> bool:
        """True if a string of it is one of a fixed set, and so no path."""
        kinds = (self.annotation, *typing.get_args(self.annotation))
        return str not in kinds and any(typing.get_origin(kind) is Literal for kind in kinds)


def parameters(kind: str, loaded: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the keyword-only parameters of a class's constructor or of a function, in order."""
    names_space = _namespace(loaded)
    found = {}
    for p in _signature(loaded):
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in RESERVED.get(kind, ()):
            annotation = _annotation(p)
            resolved = _resolve(annotation, names_space)
            name = _type_name(annotation, resolved)
            required = p.default is inspect.Parameter.empty
            found[p.name] = Parameter(p.name, resolved, name, p.default, required)
    return found


def takes_by_position(kind: str, loaded: Callable[..., Any], name: str) -> bool:
    """Return whether the constructor takes a parameter, not filled in by a run, by position."""
    by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found = {p.name for p in _signature(loaded) if p.kind is by_position}
    return name in found - RESERVED.get(kind, frozenset())


def takes_any_keyword(loaded: Callable[..., Any]) -> bool:
    """Return whether the constructor has ``**kwargs``."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _signature(loaded))


def coerce(value: Any, parameter: Parameter) -> Any:
    """Return the value as the parameter's type.

    A string is converted, because the command line gives only strings. Any other value is checked
    strictly, by JSON's rules (an array for a tuple, an integer for a float, no ``true`` for 1).

    Raises:
        ValueError: a phrase that names the option, its type and the value.
    """
    from pydantic import ValidationError

    if parameter.annotation is _UNRESOLVED:
        raise ValueError(
            f"option {parameter.name} must have an annotation that can be resolved, got "
            f"{parameter.type_name} (the plugin must import it outside TYPE_CHECKING)"
        )
    if typing.get_origin(parameter.annotation) is Literal:
        return _choose(value, parameter)
    adapter = _adapter(parameter.annotation)
    if isinstance(value, str) and value.strip().lower() == "none" and parameter.annotation != Any:
        with contextlib.suppress(ValidationError):
            return adapter.validate_python(None)  # TOML has no null, nor has a command line
    reason = ""
    for attempt in _attempts(value):
        try:
            return attempt(adapter)
        except ValidationError as error:
            reason = reason or error.errors()[0]["msg"]
    if "valid dictionary" in reason:
        reason = "write KEY=VALUE,KEY=VALUE"
    raise ValueError(
        f"option {parameter.name} must be {parameter.type_name}, got {value!r} "
        f"({reason[:1].lower()}{reason[1:]})"
    )


def _choose(value: Any, parameter: Parameter) -> Any:
    """Return the choice that equals the value; a string may stand for a choice of any type."""
    choices = typing.get_args(parameter.annotation)
    for choice in choices:
        same = type(value) is type(choice) and value == choice
        if same or (isinstance(value, str) and value.strip() == str(choice)):
            return choice
    named = " or ".join(str(choice) for choice in choices)
    raise ValueError(f"option {parameter.name} must be {named}, got {value!r}")


def documented_arguments(loaded: Callable[..., Any]) -> dict[str, str]:
    """Return the Google-style ``Args`` of a function, or of a class and its bases, by name."""
    if not isinstance(loaded, type):
        return _args_section(inspect.getdoc(loaded) or "")
    found: dict[str, str] = {}
    for base in reversed(loaded.__mro__):
        for doc in (
            base.__dict__.get("__doc__"),
            getattr(base.__dict__.get("__init__"), "__doc__", None),
        ):
            found |= _args_section(inspect.cleandoc(doc) if isinstance(doc, str) else "")
    return found


def summary(loaded: Callable[..., Any]) -> str:
    """Return the first paragraph of the docstring on one line."""
    return " ".join((inspect.getdoc(loaded) or "").split("\n\n")[0].split())


def _attempts(value: Any) -> list[Callable[[Any], Any]]:
    if not isinstance(value, str):
        try:
            text = json.dumps(value)
        except (TypeError, ValueError):
            return [lambda a: a.validate_python(value, strict=True)]
        # JSON would turn some objects (a tuple, an enum) into another type: try them unchanged.
        return [
            lambda a: a.validate_python(value, strict=True),
            lambda a: a.validate_json(text, strict=True),
        ]
    attempts: list[Callable[[Any], Any]] = [lambda a: a.validate_python(value)]
    if value.lstrip()[:1] in ("[", "{"):
        attempts.append(lambda a: a.validate_json(value, strict=True))
    items = [item.strip() for item in value.split(",") if item.strip()]
    attempts.append(lambda a: a.validate_python(items))
    pairs = {key.strip(): text.strip() for key, _, text in (i.partition("=") for i in items)}
    if "=" in value and len(pairs) == len(items):
        attempts.append(lambda a: a.validate_python(pairs))
    return attempts


def _adapter(annotation: Any) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model or dataclass has its own configuration
        return TypeAdapter(annotation)


def _signature(loaded: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(loaded).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature: no options
        return []


def _annotation(parameter: inspect.Parameter) -> Any:
    """Return a parameter's annotation; without one the type of a plain default."""
    bare = parameter.annotation is inspect.Parameter.empty
    if bare and isinstance(parameter.default, bool | int | float | str):
        return type(parameter.default)
    return parameter.annotation


def _namespace(loaded: Callable[..., Any]) -> dict[str, Any]:
    function = inspect.getattr_static(loaded, "__init__") if isinstance(loaded, type) else loaded
    return dict(getattr(inspect.unwrap(function), "__globals__", {}))


def _resolve(annotation: Any, namespace: dict[str, Any]) -> Any:
    # One at a time, so that another parameter's name under TYPE_CHECKING does no harm.
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=namespace, include_extras=True)["it"]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return _UNRESOLVED


def _type_name(annotation: Any, resolved: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "any"
    if typing.get_origin(resolved) is Literal:
        return " | ".join(str(choice) for choice in typing.get_args(resolved))
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


_ARGUMENT = re.compile(r"^\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")


def _args_section(doc: str) -> dict[str, str]:
    lines = iter(doc.splitlines())
    if not any(line.strip() in ("Args:", "Arguments:") for line in lines):
        return {}
    found: dict[str, str] = {}
    indent, name = None, ""
    for line in lines:  # continues after the header
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if depth == 0:
            break
        indent = depth if indent is None else indent
        match = _ARGUMENT.match(line.strip()) if depth == indent else None
        if match:
            name = match[1]
            found[name] = match[2]
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
