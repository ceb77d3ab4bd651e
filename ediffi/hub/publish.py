"""Publishing a model folder: what is uploaded, checked before anything is; `ediffi publish`, `Cascade.push_to_hub`."""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from ediffi.evaluation import model_index, report, results
from ediffi.hub.card import card
from ediffi.hub.config import (
    Part,
    check_encoder_files,
    encoder_parts,
    find_encoder_files,
    inside,
    packages,
    read_config,
    weight_files,
)
from ediffi.hub.finding import CONFIG, PICKLES, REVISION
from ediffi.hub.upload import Content, upload
from ediffi.io.files import replacing_folder, sha256
from ediffi.registry.core import HUB_ID

logger = logging.getLogger(__name__)

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
SAMPLES = "samples.png"
LARGE = 1 << 20
"""Bytes; a larger file that is no part of the model is refused, a smaller one is left out and named."""

PaintSamples = Callable[[Path, Path], list[str]]
"""Samples the grid of images of a model folder into a PNG file and returns its prompts; none if it wrote no file."""


@dataclass(frozen=True)
class PublicationOptions:
    """What a model is published with.

    Attributes:
        repository: "organisation/name".
        license: an identifier of the Hub ("apache-2.0").
        evaluations: folders that `ediffi evaluate` wrote.
        recipes: YAML files.

    Raises:
        ValueError: the repository or the license is impossible.
    """

    repository: str
    license: str
    evaluations: Sequence[Path] = ()
    recipes: Sequence[Path] = ()

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not re-exported

        try:
            validate_repo_id(self.repository)
            valid = HUB_ID.fullmatch(self.repository)
        except HFValidationError:
            valid = None
        if valid is None:
            raise ValueError(f"repository must be ORG/REPO on the Hub, got {self.repository!r}")
        if not LICENSE.fullmatch(self.license):
            raise ValueError(f"license must be an identifier such as apache-2.0 or openrail, got {self.license!r}")


def publish(
    place: Path,
    options: PublicationOptions,
    paint_samples: PaintSamples,
    private: bool = False,
    revision: str | None = None,
    dry_run: Path | None = None,
) -> str:
    """Publish a model folder.

    Args:
        place: the model folder.
        options: what it is published with.
        paint_samples: makes the sample grid of the card.
        private: visible only to its owners, if the repository is new.
        revision: branch to publish on.
        dry_run: a folder to write the files to, instead of the Hub; the network is not used.

    Returns:
        The address of the commit, or the folder of the dry run.

    Raises:
        FileExistsError: the folder of the dry run exists and holds no model.
        ValueError: as `publication` and `upload`, or the revision is impossible.
        OSError: as `publication` and `upload`.
    """
    if revision is not None and not REVISION.fullmatch(revision):
        raise ValueError(f"revision must be a branch, got {revision!r}")
    with publication(place, options, paint_samples) as (content, rest):
        sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in content.items()}
        for name, size in sizes.items():
            logger.info(f"  {size:>12,}  {name}")
        logger.info(f"  {sum(sizes.values()):>12,}  bytes in {len(content)} files for {options.repository}")
        if rest:
            logger.info(f"left out, no part of the model: {', '.join(rest)}")
        if dry_run is None:
            return upload(content, options.repository, private, revision)
        if dry_run.exists() and not (dry_run / CONFIG).is_file():
            raise FileExistsError(f"{dry_run} exists and holds no model; the dry run would replace it")
        with replacing_folder(dry_run) as new:
            for name, file in content.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(file) if isinstance(file, bytes) else shutil.copyfile(file, new / name)
        return str(dry_run)


@contextmanager
def publication(
    place: Path, options: PublicationOptions, paint_samples: PaintSamples
) -> Iterator[tuple[Content, list[str]]]:
    """All files to upload, by their path in the repository; and the files of the folder that are left out.

    Args:
        place: a model folder.
        options: what it is published with.
        paint_samples: makes the sample grid of the card.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a large file of the folder is no part of the model; something in the folder or the options is broken
            or of another model; or the files of an encoder are elsewhere on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="ediffi-publish-") as beside:
        config = read_config(place)
        parts = encoder_parts(config)
        _check_portable(place, parts)
        hashes = find_encoder_files(place, parts)
        names = [*weight_files(config["stages"]), *hashes]
        rest = _other_files(place, {CONFIG, *names})
        evaluations, files = _evaluations(options.evaluations, place, Path(beside))
        recipes = _recipes(options.recipes)
        samples = Path(beside) / SAMPLES
        paints = bool(config["encoders"]) and config["stages"][0]["aug_level"] is None
        prompts = paint_samples(place, samples) if paints else []
        text = _readme_text(place / "README.md")
        names += [name for name in rest if f"({name})" in text]  # what the text links to
        readme = card(options.repository, options.license, place, config, prompts, evaluations, list(recipes), text)
        content: dict[str, Path | bytes] = {name: place / name for name in names}
        content |= {**recipes, **files, "README.md": readme.encode()}
        if prompts:
            content[SAMPLES] = samples
        if "files" in config:
            check_encoder_files(place, config)
            content[CONFIG] = place / CONFIG  # the file itself, so that the model keeps its hash
        else:  # the config of an earlier version
            whole = {**config, "files": hashes, "packages": packages(config["stages"], config["encoders"])}
            content[CONFIG] = (json.dumps(whole, indent=2) + "\n").encode()
        yield content, [name for name in rest if name not in content]


def _other_files(place: Path, known: set[str]) -> list[str]:
    """The files of a model folder that are no part of the model; hidden files (`.git`) are ignored."""
    paths = {path.relative_to(place): path for path in sorted(place.rglob("*")) if path.is_file()}
    found = {
        name.as_posix(): path
        for name, path in paths.items()
        if name.as_posix() not in known and not any(part.startswith(".") for part in name.parts)
    }
    for path in found.values():  # its owner might believe that it is published
        if path.stat().st_size > LARGE or path.suffix in (*PICKLES, ".safetensors"):
            raise ValueError(f"{path} belongs to no stage and no encoder of the model: move it elsewhere, then publish")
    return list(found)


def _check_portable(place: Path, parts: Mapping[str, Part]) -> None:
    for source, part in parts.items():
        path = part.arguments.get("path")
        if not isinstance(path, str) or inside(place, part) is not None:
            continue
        if Path(path).is_dir() or not HUB_ID.fullmatch(path):
            raise ValueError(
                f"the encoder {source} is read from {path!r} on this machine, which nobody else has; compose the model "
                "with encoder_files, or name a repository of the Hub"
            )


def _readme_text(readme: Path) -> str:
    """A README without its metadata and title; nothing if there is none, or if it is a model card."""
    if not readme.is_file():
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    body = "\n".join(line for line in text.strip().splitlines() if not line.startswith("# "))
    return "" if "Written by `ediffi publish`" in body else re.sub(r"^#", "##", body, flags=re.MULTILINE).strip()


def _evaluations(
    folders: Sequence[Path], place: Path, beside: Path
) -> tuple[dict[str, results.Results], dict[str, Path | bytes]]:
    """Evaluations by their path in the repository, and their files by their paths."""
    evaluations: dict[str, results.Results] = {}
    files: dict[str, Path | bytes] = {}
    for folder in folders:
        found = results.Results.read(folder)
        models = {point.settings.get("model_sha256") for point in found.points} - {None}
        if models and models != {own := sha256(place / CONFIG)}:
            other = str(next(iter(models)))
            raise ValueError(
                f"{folder} evaluates another model: its {CONFIG} has sha256 {other[:12]}..., not {own[:12]}..."
            )
        _, entry = model_index.write(found, beside / f"results-{len(evaluations)}")
        path = f"results/{entry.stem}"
        if path in evaluations:
            raise ValueError(f"two evaluations are of the suite {entry.stem!r}, the second is {folder}")
        evaluations[path] = found
        files[f"{model_index.ENTRIES}/{entry.name}"] = entry
        pages = (results.FILE, report.FILE)
        files |= {f"{path}/{page}": folder / page for page in pages if (folder / page).is_file()}
    return evaluations, files


def _recipes(paths: Sequence[Path]) -> dict[str, Path | bytes]:
    found: dict[str, Path | bytes] = {}
    for path in paths:
        name = f"recipes/{path.name}"
        if name in found:
            raise ValueError(f"two recipes are called {path.name}; rename one")
        try:
            if path.suffix not in (".yaml", ".yml") or not isinstance(yaml.safe_load(path.read_text()), dict):
                raise ValueError("it is no YAML file with settings")
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{path} is not a recipe: {' '.join(str(error).split())}") from None
        found[name] = path
    return found
