"""The documentation site: its pages, links and navigation, and the hooks that MkDocs calls.

`mkdocs.yml` names this file. Only the hooks need MkDocs, so the tests check the same pages without
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import dirname, join, normpath, relpath
from typing import Any

from site_pages import DOCS, ROOT, generated, pages_of_plugins, pictures

COPIES = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "semisam/backends/weights/synthsam.md": "promptable-models/synthsam-card.md",
}
"""Pages of the site that are kept outside ``docs``."""


@dataclass(frozen=True)
class Page:
    """A page of the site.

    Attributes:
        site: its path in the site, ``methods/mt.md``.
        source: the path in the repository that its links are relative to.
        text: Markdown.
    """

    site: str
    source: str
    text: str


def pages() -> list[Page]:
    """Return every page of the site, with links as in the repository."""
    files = sorted(path for path in DOCS.rglob("*.md") if "templates" not in path.parts)
    own = {f"docs/{path.relative_to(DOCS).as_posix()}": path for path in files}
    own |= {name: ROOT / name for name in COPIES}
    found = [
        Page(COPIES.get(name, name.removeprefix("docs/")), name, path.read_text(encoding="utf-8"))
        for name, path in own.items()
    ]
    return [*found, *(Page(site, f"docs/{site}", text) for site, text in generated())]


LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.M | re.S)


def links(text: str) -> list[str]:
    """Return the targets of the links of a page that are no addresses."""
    found = LINK.findall(_CODE.sub(lambda code: "`code`" if code[0][0] == "`" else "", text))
    return [target for _, target in found if not re.match(r"\w+:", target)]


def relink(page: Page, places: Mapping[str, str]) -> str:
    """Return the text of a page with its links as the site needs them.

    A link to a file that the site does not have becomes plain text.

    Args:
        page: with links as in the repository.
        places: pages of the site by their path in the repository.
    """

    def moved(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if re.match(r"\w+:|#", target):
            return match[0]
        path, sign, anchor = target.partition("#")
        there = places.get(in_repository(page.source, path))
        if there is None:
            return text
        return f"[{text}]({relpath(there, dirname(page.site))}{sign}{anchor})"

    # A link may hold code, so only whole blocks of code are left out.
    blocks = re.split(r"(^```.*?^```)", page.text, flags=re.M | re.S)
    return "".join(b if b.startswith("```") else LINK.sub(moved, b) for b in blocks)


def in_repository(source: str, target: str) -> str:
    """Return the path in the repository that a link of a page names."""
    path = normpath(join(dirname(source), target))
    return f"{path}/README.md" if (ROOT / path / "README.md").is_file() else path


def places_of(found: Sequence[Page]) -> dict[str, str]:
    """Return the pages and other files of the site by their path in the repository."""
    files = [path for path in DOCS.rglob("*") if path.is_file() and path.suffix != ".md"]
    names = [path.relative_to(DOCS).as_posix() for path in files]
    own = {f"docs/{name}": name.replace(".ipynb", ".md") for name in names}
    return own | pages_of_plugins() | {page.source: page.site for page in found}


def expanded(nav: list[Any], found: Sequence[str]) -> list[Any]:
    """Return a navigation in which ``methods/*.md`` is every page there that it does not name."""
    named = set(re.findall(r"'([^']+\.md)'", repr(nav)))

    def entries(items: list[Any]) -> Iterator[Any]:
        for item in items:
            if isinstance(item, dict):
                ((title, value),) = item.items()
                yield {title: list(entries(value)) if isinstance(value, list) else value}
            elif item.endswith("/*.md"):
                folder = item.removesuffix("*.md")
                yield from sorted(p for p in found if p.startswith(folder) and p not in named)
            else:
                yield item

    return list(entries(nav))


# The hooks of MkDocs.

_PAGES: dict[str, Page] = {}


def on_config(config: Any) -> Any:
    """Make the pages, and put them into the navigation."""
    _PAGES.update({page.site: page for page in pages()})
    config["nav"] = expanded(config["nav"], list(_PAGES))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in ``docs``, and the pictures."""
    from mkdocs.structure.files import File

    for page in _PAGES.values():
        if files.get_file_from_path(page.site) is None:
            files.append(File.generated(config, page.site, content=page.text))
    for path, draw in pictures():
        files.append(File.generated(config, path, content=draw()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return the page with links into the site."""
    return relink(_PAGES[page.file.src_uri], places_of(list(_PAGES.values())))
