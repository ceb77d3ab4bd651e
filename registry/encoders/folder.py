"""Look at a model folder before a library opens it, so that what is wrong with it is said in one sentence."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What names a repository of the Hub: "organisation/name"."""
WANTED_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def check_folder(folder: Path, files: Iterable[str], what: str) -> None:
    """Raise unless `folder` holds every one of `files`, each of them whole.

    Nothing is loaded: of a `.safetensors` file the header is read, which also says how long the file has to be.

    Args:
        folder: the model's folder.
        files: names that have to be in it; `.json` and `.safetensors` files are looked into.
        what: what the folder should be ("a T5 encoder"), for the messages.

    Raises:
        FileNotFoundError: no such folder, or a file is missing from it; the message lists what is expected.
        ValueError: a file is there but broken; the message names it.
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
        ValueError: the file is not JSON, or not an object; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON ({error}): write or download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} should hold a JSON object, not a {type(content).__name__}")
    return content


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is truncated or not a safetensors file ({error})") from error
