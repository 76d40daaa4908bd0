"""What the documentation site needs besides its pages: API pages, pages of linked source files, argument lists.

- `api/ROOM.md`, one a package of `unified_jax`, is generated: mkdocstrings fills it from the docstrings.
- A link to a file of the repository outside `docs/` leads to a page that shows this file; a missing one is an error.
- Docstrings list arguments in aligned columns and hold examples, which `Docstrings` turns into Markdown.
"""

import os
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "unified_jax"
LINK = re.compile(r"(?<=\]\()(?!https?:)([^()\s#]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages. Raises PluginError for a link to a file that does not exist."""
    for package in packages():
        files.append(File.generated(config, f"api/{package.name}.md", content=api_page(package)))
    linked = {target for page in DOCS.rglob("*.md") for target in outside(page)}
    for path in sorted(linked):
        files.append(File.generated(config, source_page(path), content=source_text(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files outside `docs/` lead to their pages."""
    del config, files
    here = Path(page.file.src_uri).parent

    def lead(match: re.Match[str]) -> str:
        path = resolved(DOCS / page.file.src_uri, match[1])
        if path is None or path.is_relative_to(DOCS):
            return match[1]
        return os.path.relpath(source_page(path), here)

    return LINK.sub(lead, markdown)


def packages() -> list[Path]:
    """The packages of the library, by name."""
    return sorted(path.parent for path in PACKAGE.glob("[a-z]*/__init__.py"))


def api_page(package: Path) -> str:
    """A heading, and one directive a module."""
    modules = sorted(path for path in package.rglob("*.py") if path.stem != "__init__")
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
    return "\n".join([f"# {package.name}", "", *(f"::: {name}\n" for name in names)])


def resolved(page: Path, link: str) -> Path | None:
    """The file that a relative link means; None for other links. Raises PluginError where nothing is there."""
    if ":" in link or link.startswith(("/", "#")):
        return None
    path = Path(os.path.normpath(page.parent / link))
    if not path.is_relative_to(DOCS) and not path.is_file():
        raise PluginError(f"{page.relative_to(ROOT)} links to {link!r}, which is no file of the repository.")
    return path


def outside(page: Path) -> list[Path]:
    """Files outside `docs/` that a page links to."""
    found = [resolved(page, link) for link in LINK.findall(page.read_text(encoding="utf-8"))]
    return [path for path in found if path is not None and not path.is_relative_to(DOCS)]


def source_page(path: Path) -> str:
    """Where the site shows a file of the repository."""
    return f"source/{path.relative_to(ROOT).as_posix()}.md"


def source_text(path: Path) -> str:
    """The page of a source file."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    if path.suffix == ".md":  # its own links are for readers of the repository
        text = LINK.sub("#", text)
        return f"---\nsearch: {{exclude: true}}\n---\n\n{text}"
    fence = "`" * 6
    kind = {".py": "python", ".sh": "bash", ".yml": "yaml"}.get(path.suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n\n# {name}\n\n{fence}{kind}\n{text}{fence}\n"


class Docstrings(griffe.Extension):
    """Docstrings as Markdown."""

    def on_object(self, *, obj: griffe.Object, **rest: Any) -> None:
        """Rewrites one docstring."""
        del rest
        if obj.docstring:
            obj.docstring.value = "\n\n".join(markdown_of(one) for one in obj.docstring.value.split("\n\n"))


def markdown_of(paragraph: str) -> str:
    """A paragraph of a docstring: an example in a fence, arguments as a list, prose without links."""
    if paragraph.startswith(">>> "):
        return f"```pycon\n{paragraph}\n```"
    lines = "\n".join(line if line.startswith("    ") else plain(line) for line in paragraph.split("\n"))
    return as_list(lines) if re.match(r"[\w*]+(, [\w*]+)* {2,}\S", lines) else lines


def plain(line: str) -> str:
    """Brackets outside of code are shapes and indices, no links."""
    parts = line.split("`")
    return "`".join(re.sub(r"([\[\]])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))


def as_list(paragraph: str) -> str:
    """One paragraph; a line that is indented continues the one before."""
    lines = []
    for line in paragraph.split("\n"):
        named = re.match(r"([\w*]+(?:, [\w*]+)*) {2,}(\S.*)", line)
        lines.append(f"- `{named[1]}`: {named[2]}" if named else f"  {line.strip()}")
    return "\n".join(lines)
