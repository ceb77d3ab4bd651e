"""`ediffi inspect PICTURE.png`."""

import json
from pathlib import Path

from ediffi.cli import run
from ediffi.commands.sample import SETTINGS


def main(argv: list[str]) -> int:
    """Print the settings stored in a picture."""
    return run(inspect, argv)


def inspect(picture: Path, /) -> None:
    """Print the settings a picture was made with, as JSON.

    Args:
        picture: a PNG that `ediffi sample` made.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(picture) as image:
            text = getattr(image, "text", {}).get(SETTINGS)
    except UnidentifiedImageError:
        raise ValueError(f"{picture} is not a picture") from None
    if text is None:
        raise ValueError(f"{picture} holds no settings: it was not made by ediffi sample, or was saved again since")
    print(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
