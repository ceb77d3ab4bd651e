"""The report: one page with its figures inside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ediffi.io.images import open_image
from ediffi.io.page import data_uri, write_page

TEMPLATE = Path(__file__).with_name("report.html.j2")
COLOURS = 128
"""Of a figure on the page; charts have far fewer."""


def write(results: Mapping[str, Any], missing: Sequence[str], figures: Path, file: Path) -> Path:
    """Write the page.

    Args:
        results: content of `results.json`.
        missing: titles of the items that are not made yet.
        figures: folder of the figures.
        file: the page.

    Raises:
        OSError: a figure is missing, or the page cannot be written.
    """
    names = [figure["file"] for item in results["items"].values() for figure in item["figures"]]
    images = {name: embedded(figures / name) for name in names}
    return write_page(file, TEMPLATE, results=results, missing=missing, images=images)


def embedded(path: Path) -> str:
    """A PNG as a data URI, with a palette: a third of the bytes."""
    return data_uri(open_image(path).convert("RGB").quantize(COLOURS), "png")
