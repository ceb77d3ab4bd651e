"""`ediffi inspect PICTURE.png`."""

import json
from pathlib import Path


def inspect(picture: Path, /) -> None:
    """Print the settings a picture was made with, as JSON.

    Args:
        picture: a PNG that ediffi made.
    """
    from ediffi.io.png import settings_of

    print(json.dumps(settings_of(picture), indent=2, ensure_ascii=False))
