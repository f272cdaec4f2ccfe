"""What an exported model's file may hold, before PyTorch opens it.

A ``.pt2`` is a zip of a graph (JSON) and its tensors (raw bytes). PyTorch's loader also takes
pickles, compiled libraries, Python expressions and names of any function, each of which runs what
the file's author likes. Here a file is let through only if it has none of these; see `_KNOWN`,
`_OPERATOR`, `_EXPRESSION` and `_TEXT`, which are lists of what is allowed.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semisam.core.errors import InputError

_GRAPH = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_EXAMPLES = "data/sample_inputs/model.pt"  # a pickle, so only empty
_KNOWN = re.compile(
    r"models/model\.json|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
# Operators on tensors, none of which opens a file, and arithmetic on the number of windows.
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+|_operator\.(add|mul|getitem)")
_EXPRESSION = re.compile(
    r"(?:Symbol\('[su]\d++'|(?:Mul|Add)\(|Integer\(|(?:positive|integer|nonnegative)=True"
    r"|[su]\d++|\d++|[()*+, -])*+"
)
_TREE = re.compile(r"""[\w.":,\[\]{} ]*""")
_TEXT = re.compile(r"[\w.+\-]*")
_LARGEST_TEXT = 256 << 20
_RULES = {"target": _OPERATOR, "expr_str": _EXPRESSION, "in_spec": _TREE, "out_spec": _TREE}


class _Refused(Exception):
    """What the file holds that it may not."""


@contextmanager
def checked_archive(path: Path) -> Iterator[io.BytesIO]:
    """Yield an exported model's file, packed anew from the parts that were checked.

    Packed anew, because two readers of zip files may see different things in one file.

    Raises:
        InputError: it is no exported model, or holds what could run code when it is opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = _packed(archive)
    except (_Refused, zipfile.BadZipFile, OSError, ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"an exported model of operators and tensors alone is required, got {path} ({error}): "
            "export it with `semisam export`, and a recent torch"
        ) from None
    with packed:
        yield packed


def _packed(archive: zipfile.ZipFile) -> io.BytesIO:
    names = archive.namelist()
    root = names[0].split("/")[0] if names else ""
    parts = [name.removeprefix(f"{root}/") for name in names]
    for name, part in zip(names, parts, strict=True):
        if not name.startswith(f"{root}/") or not _KNOWN.fullmatch(part):
            raise _Refused(f"it holds {name!r}")
    if len(set(parts)) != len(parts) or not re.fullmatch(r"[\w\-. ]+", root):
        raise _Refused("two of its parts have one name")
    _check_graph(_json(archive, f"{root}/{_GRAPH}"))
    for config in _CONFIGS:
        _check_tensors(_json(archive, f"{root}/{config}"))
    if _EXAMPLES in parts and archive.getinfo(f"{root}/{_EXAMPLES}").file_size:
        raise _Refused("it holds pickled examples")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as copy:
        for name in names:
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise _Refused(f"{name!r} is compressed")
            copy.writestr(name, archive.read(name))
    packed.seek(0)
    return packed


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > _LARGEST_TEXT:
        raise _Refused(f"{name!r} is too large")
    return json.loads(archive.read(name))


def _check_graph(value: Any, key: str = "") -> None:
    """Hold every text of the graph, keys included, to the rule of its key."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not _TEXT.fullmatch(name) and not _EXPRESSION.fullmatch(name):
                raise _Refused(f"it names {name[:60]!r}")
            _check_graph(part, name)
    elif isinstance(value, list):
        for part in value:
            _check_graph(part, key)
    elif isinstance(value, str):
        tree = key in ("in_spec", "out_spec")
        if _RULES.get(key, _TEXT).fullmatch(value) and not (tree and "__" in value):
            return
        raise _Refused(f"its {key or 'graph'} is {value[:60]!r}")


def _check_tensors(config: Any) -> None:
    for name, entry in config["config"].items():
        plain = re.fullmatch(r"(weight|tensor)_\d+", str(entry["path_name"]))
        if entry["use_pickle"] is not False or not plain or not _TEXT.fullmatch(name):
            raise _Refused(f"{name[:60]!r} is no plain tensor")
        _check_graph(entry)
