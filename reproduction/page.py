"""The report: one page with its figures inside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.io.files import replace

COLOURS = 128
"""Of a figure on the page; charts have far fewer."""


def write(results: Mapping[str, Any], missing: Sequence[str], figures: Path, file: Path) -> Path:
    """Write the page; it loads nothing, from the network or from disk.

    Args:
        results: content of `results.json`.
        missing: titles of what is not made yet.
        figures: folder of the figures.
        file: the page.

    Raises:
        OSError: a figure is missing, or the page cannot be written.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("reproduction", "."), autoescape=select_autoescape(["html", "j2"]), trim_blocks=True
    )
    pictures = {figure["file"]: embedded(figures / figure["file"]) for figure in _figures(results)}
    text = environment.get_template("report.html.j2").render(results=results, missing=missing, pictures=pictures)
    replace(file, text.encode())
    return file


def embedded(path: Path) -> str:
    """A PNG as a data URL, with a palette of its own: a third of the bytes."""
    file = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _figures(results: Mapping[str, Any]) -> list[Mapping[str, str]]:
    return [figure for item in results["items"].values() for figure in item["figures"]]
