"""Check docstrings, comments, messages and Markdown for the words that prose.toml rules out.

Run ``python tools/prose.py`` in the root of a checkout, or name the files to check. Text in
backticks and fenced code are left out.
"""

from __future__ import annotations

import ast
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

_RULES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_WORDS = {
    re.compile(rf"\b({words.replace(' ', chr(92) + 's+')})\b"): better
    for words, better in _RULES["banned"].items()
}
_CODE = re.compile(r"```.*?```|``.*?``|`[^`\n]*`", re.DOTALL)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield line number and text of each piece of prose, and whether it is a docstring."""
    if path.suffix != ".py":
        yield 1, path.read_text(encoding="utf-8"), False
        return
    with tokenize.open(path) as file:
        lines = file.readlines()
    nodes = list(ast.walk(ast.parse("".join(lines))))
    documented = [n for n in nodes if isinstance(n, _DOCUMENTED) and ast.get_docstring(n)]
    docs = {id(node.body[0].value) for node in documented}  # type: ignore[attr-defined]
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, id(node) in docs
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string, False


def faults(path: Path) -> list[str]:
    """Return one line per fault of a file."""
    found = []
    for line, text, is_docstring in texts(path):
        plain = _CODE.sub(lambda code: "`" + "\n" * code[0].count("\n"), text)
        for pattern, better in _WORDS.items():
            for match in pattern.finditer(plain):
                at = line + plain.count("\n", 0, match.start())
                found.append(f"{path}:{at}: '{' '.join(match[0].split())}': write {better}")
        first = re.match(_RULES["first_line"], text.strip()) if is_docstring else None
        if first:
            found.append(f"{path}:{line}: '{first[0]} ...': begin with an imperative or a noun")
    return found


def main(names: list[str]) -> int:
    """Print the faults of the named files, or of all that are checked; return 1 if there is one."""
    files = [Path(n) for n in names] or [
        path
        for pattern in ("**/*.md", "**/*.py", "**/*.txt")
        for path in sorted(Path().glob(pattern))
        if path.parts[0][0] != "." and path.name != "constraints.txt"
    ]
    not_yet = _RULES["not_yet"]["paths"]
    checked = [p for p in files if not any(p.is_relative_to(path) for path in not_yet)]
    found = [line for path in checked for line in faults(path)]
    print("\n".join(found) or f"prose: {len(checked)} files are clean")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
