"""A small set of sprites, drawn here: six styles are six shades, and a concept is the shape of its box."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.examples.shapes import ROOT

sys.path.insert(0, str(ROOT / "examples" / "emoji"))  # its README runs `python -m emojiworld` in that folder

HEXCODES = ("1f438", "1f98a", "1f355", "1f680", "1f34e", "1f451", "1f347", "2702")


@pytest.fixture(scope="session")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; the last style lacks the last two concepts."""
    from emojiworld.world import SIX_STYLES

    folder = tmp_path_factory.mktemp("sprites")
    for shade, style in enumerate(SIX_STYLES):
        (folder / style).mkdir()
        for number, hexcode in enumerate(HEXCODES[: 6 if style == SIX_STYLES[-1] else None]):
            image = Image.new("RGBA", (256, 256))
            box = (8 + 8 * number, 8, 247 - 8 * number, 247)
            ImageDraw.Draw(image).ellipse(box, fill=(40 * shade, 200 - 25 * number, 25 * number, 255))
            image.save(folder / style / f"{hexcode}.webp", lossless=True)
            facts = {"label": f"thing {number}", "group": "objects", "hex": hexcode, "style": style}
            (folder / style / f"{hexcode}.json").write_text(json.dumps(facts))
    return folder
