"""`ediffi inspect IMAGE.png`."""

import json
from pathlib import Path


def inspect(image: Path, /) -> None:
    """Print the settings that an image was sampled with, as JSON.

    Args:
        image: a PNG that ediffi made.
    """
    from ediffi.io.png import settings_of

    print(json.dumps(settings_of(image), indent=2, ensure_ascii=False))
