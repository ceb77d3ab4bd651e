"""HTML pages that need nothing else: one base template, `page.html.j2`, with one stylesheet, `page.css`."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image

from ediffi.io.files import replace


def write_page(file: Path, template: Path, script: str = "", **values: Any) -> Path:
    """Write a page from a template that extends "page.html.j2"; the same values, all escaped, give the same bytes.

    `script` is JavaScript of ours, the only one that the page lets a browser run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script_hash = f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
    text = environment.get_template(template.name).render(script=script, script_hash=script_hash, **values)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace(file, text.encode("utf-8", "replace"))
    return file


def data_uri(image: Image.Image, *kinds: str, **options: Any) -> str:
    """An image as text that stands in a page, in the shortest of the formats `kinds`, such as "png", "jpeg"."""
    contents = {}
    for kind in kinds:
        file = io.BytesIO()
        image.save(file, kind, optimize=True, **options)
        contents[kind] = file.getvalue()
    kind = min(contents, key=lambda name: len(contents[name]))
    return f"data:image/{kind};base64,{base64.b64encode(contents[kind]).decode()}"
