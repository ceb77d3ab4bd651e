"""Hooks of mkdocs: they generate pages from the code while the site is built."""

import json
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
NOTEBOOK = ROOT / "docs/first-steps.md"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_pages: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generate the pages. In the navigation, the name of a folder stands for its generated pages."""
    _pages.clear()
    _pages.update({"recipes.md": reference.recipes(), "public.md": reference.public()})
    _pages.update({**reference.commands(), **reference.modules(ROOT)})
    config.nav = [_filled(entry) for entry in config.nav or []]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in _pages.items():
        files.append(File.generated(config, name, content=text))
    files.append(
        File.generated(config, NOTEBOOK.with_suffix(".ipynb").name, content=notebook(NOTEBOOK.read_text("utf-8")))
    )
    return files


def notebook(markdown: str) -> str:
    """A page as a Jupyter notebook (format 4.5): a code cell of each block of Python, text cells of what is between."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(CODE.split(markdown)):
        code = {"execution_count": None, "outputs": []} if number % 2 else {}
        kind = "code" if number % 2 else "markdown"
        cells.append({"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": part.strip(), **code})
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link the names in the paper map to the reference."""
    return PLACE.sub(_linked, markdown) if page.file.src_uri == "paper-map.md" else markdown


def _filled(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        (title, place), *_ = entry.items()
        if isinstance(place, str) and place.endswith("/"):
            return {title: [name for name in _pages if name.startswith(place)]}
        if isinstance(place, list):
            return {title: [_filled(one) for one in place]}
    return entry


def _linked(found: re.Match[str]) -> str:
    if found[1].startswith(reference.PROGRAMS):
        return found[0]
    return f"[`{found[1]}` `{found[2]}`][{reference.module_of(Path(found[1]))}.{found[2]}]"
