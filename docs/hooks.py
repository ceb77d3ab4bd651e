"""Hooks of mkdocs: they generate pages from the code while the site is built."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs import reference

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"`((?:registry|evaluation|ediffi)/[\w/]+\.py)` `([\w.]+)`")
"""Code as the paper map names it: a file, and a name in it."""
_pages: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generate the pages. In the navigation, the name of a folder stands for its generated pages."""
    _pages.clear()
    _pages.update({"recipes.md": reference.recipes(), **reference.commands(), **reference.modules(ROOT)})
    config.nav = [_filled(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in _pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link the names in the paper map to the reference."""
    return PLACE.sub(_linked, markdown) if page.file.src_uri == "paper-map.md" else markdown


def _filled(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        (title, place), *_ = entry.items()
        if isinstance(place, str) and place.endswith("/"):
            return {title: [name for name in _pages if name.startswith(place)]}
    return entry


def _linked(found: re.Match[str]) -> str:
    if found[1].startswith(reference.PROGRAMS):
        return found[0]
    return f"[`{found[1]}` `{found[2]}`][{reference.module_of(Path(found[1]))}.{found[2]}]"
