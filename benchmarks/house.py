"""Size and structure of a checkout: files, functions, rooms, floors and import circles.

    python benchmarks/house.py NAME=CHECKOUT... [--out benchmarks/results/house.csv]

A room is a module or a package directly in `semisam`. A floor is a step of the longest chain of
imports between rooms. A circle is a set of rooms, or of modules, that import each other. Imports in
functions count; those under `TYPE_CHECKING` do not. The code is parsed and not imported.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from pathlib import Path

from rows import write_rows

ROOT = "semisam"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="+", metavar="NAME=CHECKOUT")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for given in options.checkouts:
        name, _, path = given.partition("=")
        rows.append({"state": name, **measure(Path(path))})
        print("\n".join(f"{key}: {value}" for key, value in rows[-1].items()), end="\n\n")
    if options.out:
        write_rows(options.out, rows)


def measure(checkout):
    """Return the figures of one checkout."""
    files = sorted((checkout / ROOT).rglob("*.py"))
    names = {path: _module(path.relative_to(checkout)) for path in files}
    trees = {path: ast.parse(path.read_bytes()) for path in files}
    lines = {path: len(path.read_bytes().splitlines()) for path in files}
    functions = [
        (node.end_lineno - node.lineno + 1, f"{names[path]}.{node.name}")
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    modules = {names[path]: _imports(path, names, trees[path]) for path in files}
    rooms = {}
    for module, imported in modules.items():
        found = rooms.setdefault(_room(module), set())
        found |= {_room(other) for other in imported} - {_room(module)}
    rooms.pop(ROOT)
    for imported in rooms.values():
        imported.discard(ROOT)
    longest = max(functions)
    largest = max(files, key=lines.get)
    circles = _circles(rooms)
    return {
        "files": len(files),
        "lines": sum(lines.values()),
        "functions": len(functions),
        "median_function": statistics.median_low(length for length, _ in functions),
        "longest_function": longest[1],
        "longest_function_lines": longest[0],
        "longest_file": largest.relative_to(checkout).as_posix(),
        "longest_file_lines": lines[largest],
        "rooms": len(rooms),
        "floors": _floors(rooms, circles),
        "room_circles": "; ".join(" ".join(sorted(circle)) for circle in circles),
        "module_circles": len(_circles(modules)),
    }


def _module(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module):
    return ".".join(module.split(".")[:2])


def _imports(path, names, tree):
    """Return the modules of the package that a file imports."""
    known = set(names.values())
    package = names[path] if path.name == "__init__.py" else names[path].rpartition(".")[0]
    found = set()
    for node in _at_run_time(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inside & known) or {base}
    return (found & known) - {names[path]}


def _at_run_time(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_run_time(child)


def _reachable(graph):
    """Return for each node all that it imports, directly or not."""
    found = {}
    for start in graph:
        seen, new = set(), set(graph[start])
        while new:
            seen |= new
            new = set().union(*(graph[node] for node in new)) - seen
        found[start] = seen
    return found


def _circles(graph):
    """Return the sets of nodes that import each other."""
    reach = _reachable(graph)
    circles = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}
    return sorted(circles, key=sorted)


def _floors(graph, circles):
    """Return the length of the longest chain of imports, a circle counted as one node."""
    one = {node: min(circle) for circle in circles for node in circle}
    merged = {}
    for node, imported in graph.items():
        own = one.get(node, node)
        merged.setdefault(own, set()).update(one.get(n, n) for n in imported)
        merged[own].discard(own)
    height = {}

    def floor(node):
        if node not in height:
            height[node] = 1 + max((floor(n) for n in merged[node]), default=0)
        return height[node]

    return max(map(floor, merged))


if __name__ == "__main__":
    main()
