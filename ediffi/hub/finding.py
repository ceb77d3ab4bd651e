"""Where a model is that somebody names: shipped, listed, a folder, or on the Hub."""

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from ediffi.hub import download
from ediffi.hub import models as known
from ediffi.hub.repository import SCHEME, Place, place_of

CONFIG = "config.json"
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle")


class Found(NamedTuple):
    """The folder of a model; of one of the Hub, which has a place there, it holds `config.json` and maybe more."""

    folder: Path
    place: Place | None
    local_files_only: bool

    def fetch(self, wanted: Callable[[], Sequence[str]]) -> None:
        """See to it that the files that `wanted` gives, called if need be, are there; see `hub.fetch.complete`."""
        if self.place is not None:
            download.complete(self.place, self.folder, wanted(), self.local_files_only)


def find(model: str | Path, revision: str | None = None, local_files_only: bool = False) -> Found:
    """Where a model is: of one of the Hub, only its `config.json` is fetched.

    Args:
        model: a name ("toybox", or one of a list), a folder, or a place of the Hub: "ORG/REPO", "ORG/REPO@REVISION" or
            "hf://ORG/REPO". A folder here that is called ORG/REPO wins over the Hub, which `hf://` asks for.
        revision: branch, tag or commit of the Hub.
        local_files_only: read the cache of the Hub only.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a pickle is given, a revision of what has none, or a list of models is broken.
        OSError: the Hub cannot be reached, or refuses.
    """
    text = str(model)
    listed_model = known.find(text)
    if listed_model is not None:
        text, revision = listed_model.place, revision or listed_model.revision
    folder = Path(text)
    if folder.suffix in PICKLES and not folder.is_dir():
        raise ValueError(
            f"{text} is a pickle, which can run code when it is read, and is not loaded as a model; "
            f"`ediffi convert {text} {folder.stem}.safetensors` reads tensors and plain values of it, and nothing else"
        )
    place = None if isinstance(model, Path) or folder.is_dir() else place_of(text, revision)
    if place is not None:
        try:
            return Found(download.snapshot(place, CONFIG, local_files_only), place, local_files_only)
        except OSError as error:
            meant = text.startswith(SCHEME) or listed_model is not None
            raise type(error)(str(error) if meant else f"there is no folder {text!r} here, and {error}") from None
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no model {text!r}: neither a folder, nor ORG/REPO of the Hub, nor one of {', '.join(known.names())}"
        )
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no {CONFIG}")
    if revision is not None:
        raise ValueError(f"{folder} is a folder, and has no revision {revision!r}; hf://ORG/REPO asks the Hub")
    return Found(folder, None, local_files_only)


def look(model: str) -> None:
    """Make sure, in silence, that there is such a model; whoever wants it finds it again. Raises as `find`."""
    with redirect_stderr(StringIO()):
        find(model)
