"""Check a model folder before a library opens it, so that an error is one clear sentence."""

import json
from collections.abc import Iterable
from pathlib import Path

WANTED_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def check_folder(folder: Path, files: Iterable[str], what: str) -> None:
    """Raise unless `folder` has all of `files`, and the `.json` and `.safetensors` files among them are complete.

    Of a `.safetensors` file only the header is read, which says how long the file has to be. `what` is what the folder
    should be ("a T5 encoder"), for the messages.

    Raises:
        FileNotFoundError: no such folder, or a file is missing; the message lists the files.
        ValueError: a file is broken; the message names it.
    """
    wanted = list(files)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}: expected {what}, a folder with {', '.join(wanted)}")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"the folder {str(folder)!r} has no {' and no '.join(missing)}: {what} needs {', '.join(wanted)}"
        )
    for name in wanted:
        if name.endswith(".json"):
            read_json(folder / name)
        elif name.endswith(".safetensors"):
            _check_safetensors(folder / name)


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        ValueError: it is not JSON, or not an object; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON ({error}): write or download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} should hold a JSON object, not a {type(content).__name__}")
    return content


def shards(folder: Path, index: str) -> list[str]:
    """The names of an index of safetensors shards and of the shards it lists.

    Raises:
        ValueError: it is not such an index, or lists files that would have to be unpickled.
    """
    listed = read_json(folder / index).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names or not all(name.endswith(".safetensors") for name in names):
        raise ValueError(f"{str(folder / index)!r} should list shards of weights, all of them .safetensors files")
    return [index, *names]


def from_hub(repository: str, revision: str | None, files: Iterable[str]) -> Path:
    """Download those of `files` (names or patterns) that a repository has; the folder of the Hub's cache with them.

    With HF_HUB_OFFLINE=1 nothing is downloaded. A file that the repository lacks is no error here: see `check_folder`.

    Raises:
        OSError: the repository is not cached and cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))


def unavailable(what: str, revision: str | None, error: OSError, advice: str) -> FileNotFoundError:
    """The error for a model of the Hub that cannot be loaded: one sentence with what, why and what to do."""
    why = str(error).splitlines()[0].split(". ")[0].rstrip(".")
    return FileNotFoundError(f"could not load {what} at revision {revision or 'main'} ({why}): {advice}")


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is truncated or not a safetensors file ({error})") from error
