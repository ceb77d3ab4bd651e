"""Model folders, checked before a library opens them, so that an error is one clear sentence."""

from collections.abc import Iterable
from pathlib import Path

from ediffi.io import plain_json
from ediffi.io.hub_client import download

WANTED_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def check_folder(folder: Path, files: Iterable[str], what: str) -> None:
    """Raise unless `folder` has all of `files`, and the `.json` and `.safetensors` files among them are complete.

    Of a `.safetensors` file only the header is read, which says how long the file has to be. `what` is a noun for the
    messages ("a T5 encoder"). FileNotFoundError lists the missing files, ValueError names a broken one.
    """
    from safetensors import SafetensorError, safe_open

    wanted = list(files)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}: expected {what}, a folder with {', '.join(wanted)}")
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        lacks = f"the folder {str(folder)!r} has no {' and no '.join(missing)}"
        raise FileNotFoundError(f"{lacks}: {what} needs {', '.join(wanted)}")
    for path in (folder / name for name in wanted):
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt") as file:
                    file.keys()
            except SafetensorError as error:
                raise ValueError(f"{str(path)!r} is truncated or not a safetensors file ({error})") from error


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file; ValueError names the file if there is none."""
    try:
        content = plain_json.read(path)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON ({error}): write or download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} should hold a JSON object, not a {type(content).__name__}")
    return content


def from_hub(repository: str, revision: str | None, files: Iterable[str]) -> Path:
    """Download those of `files` (names or patterns) that a repository has; the folder of the Hub's cache with them.

    With HF_HUB_OFFLINE=1 nothing is downloaded. A file that the repository lacks is no error here: see `check_folder`.
    OSError if the repository is not cached and cannot be downloaded.
    """
    return download(repository, revision, list(files))


def unavailable(what: str, revision: str | None, error: OSError, advice: str) -> FileNotFoundError:
    """The error for a model of the Hub that cannot be loaded: one sentence with what, why and what to do."""
    why = str(error).splitlines()[0].split(". ")[0].rstrip(".")
    return FileNotFoundError(f"could not load {what} at revision {revision or 'main'} ({why}): {advice}")
