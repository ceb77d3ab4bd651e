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
from typing import Any

import yaml

from ediffi.evaluation import model_index, report, results
from ediffi.hub.card import Facts, card
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
from ediffi.hub.finding import CONFIG, PICKLES
from ediffi.hub.repository import REVISION, check_repository
from ediffi.hub.upload import Content, upload
from ediffi.registry.core import HUB_ID

logger = logging.getLogger(__name__)

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
SAMPLES = "samples.png"
LARGE = 1 << 20
"""Bytes from which on a file that belongs to nothing is refused; smaller files are left out and named."""

PaintSamples = Callable[[Path, Path], list[str]]
"""Paints the sample grid of a model folder into a PNG file, and returns its prompts; none if it wrote no file."""


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        repository: "organisation/name".
        license: an identifier of the Hub ("apache-2.0").
        evaluations: folders that `ediffi evaluate` wrote.
        recipes: YAML files.

    Raises:
        ValueError: the repository cannot be one, or there is no licence.
    """

    repository: str
    license: str
    evaluations: Sequence[Path] = ()
    recipes: Sequence[Path] = ()

    def __post_init__(self) -> None:
        check_repository(self.repository)
        if not LICENSE.fullmatch(self.license):
            raise ValueError(
                f"a model is published under a licence, as --license apache-2.0 or openrail; got {self.license!r}"
            )


@contextmanager
def publication(place: Path, order: Order, paint_samples: PaintSamples) -> Iterator[tuple[Content, list[str]]]:
    """Everything to upload, by its path in the repository, `config.json` last; and the files that are left out.

    Args:
        place: a model folder.
        order: what goes with it.
        paint_samples: paints the sample grid of the card.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the folder has large files that are no part of the model, something in it or in the order is broken
            or of another model, or an encoder is where nobody else could read it.
    """
    with tempfile.TemporaryDirectory(prefix="ediffi-publish-") as beside:
        config = read_config(place)
        parts = encoder_parts(config)
        check_portable(place, parts)
        rest = left_out(place, config)
        judged, files = _evaluations(order.evaluations, place, Path(beside))
        recipes = _recipes(order.recipes)
        samples = Path(beside) / SAMPLES
        paints = bool(config["encoders"]) and config["stages"][0]["aug_level"] is None
        prompts = paint_samples(place, samples) if paints else []
        told = about(place / "README.md")
        linked = [name for name in rest if f"({name})" in told]
        facts = Facts(order.repository, order.license, place, config, prompts, judged, list(recipes), told)
        names = [*weight_files(config["stages"]), *find_encoder_files(place, parts), *linked]
        content: dict[str, Path | bytes] = {name: place / name for name in names}
        content |= {**recipes, **files, "README.md": card(facts).encode()}
        if prompts:
            content[SAMPLES] = samples
        content[CONFIG] = _config(place, config, parts)
        yield content, [name for name in rest if name not in content]


def publish(
    place: Path,
    order: Order,
    paint_samples: PaintSamples,
    private: bool = False,
    revision: str | None = None,
    dry_run: Path | None = None,
) -> str:
    """Publish a model folder; see `publication` and `upload`.

    Args:
        place: a model folder.
        order: what goes with it.
        paint_samples: paints the sample grid of the card.
        private: only for its owners, if the repository is new.
        revision: branch to publish on.
        dry_run: a folder to write what would be uploaded to; no network is used.

    Returns:
        The address of the commit, or the folder of the dry run.

    Raises:
        ValueError: as `publication` and `upload`, or the revision cannot be a branch.
        OSError: as `publication` and `upload`.
    """
    check_branch(revision)
    with publication(place, order, paint_samples) as (content, rest):
        for name, file in content.items():
            logger.info("  %12s  %s", f"{size(file):,}", name)
        total = sum(size(file) for file in content.values())
        logger.info("  %12s  bytes in %s files for %s", f"{total:,}", len(content), order.repository)
        if rest:
            logger.info("left out, no part of the model: %s", ", ".join(rest))
        if dry_run is not None:
            return str(_write(content, dry_run))
        return upload(content, order.repository, private, revision)


def left_out(place: Path, config: Mapping[str, Any]) -> list[str]:
    """Small files of a model folder that are no part of the model; hidden files (`.git`) are not looked at.

    Raises:
        ValueError: such a file is large or has weights; its owner might believe that it is published.
    """
    known = {CONFIG, *weight_files(config["stages"]), *find_encoder_files(place, encoder_parts(config))}
    files = sorted(path for path in place.rglob("*") if path.is_file())
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(place).parts)]
    foreign = [path for path in shown if path.relative_to(place).as_posix() not in known]
    for path in foreign:
        if path.stat().st_size > LARGE or path.suffix in (*PICKLES, ".safetensors"):
            raise ValueError(f"{path} belongs to no stage and no encoder of the model: move it elsewhere, then publish")
    return [path.relative_to(place).as_posix() for path in foreign]


def check_portable(place: Path, parts: Mapping[str, Part]) -> None:
    """Make sure that the encoders can be read elsewhere: from the folder itself, or from the Hub.

    Raises:
        ValueError: one cannot.
    """
    for source, part in parts.items():
        path = part.arguments.get("path")
        if not isinstance(path, str) or inside(place, part) is not None:
            continue
        if Path(path).is_dir() or not HUB_ID.fullmatch(path):
            raise ValueError(
                f"the encoder {source} reads {path!r} of this machine, which nobody else has; compose the model with "
                "encoder_files, or name a repository of the Hub"
            )


def check_branch(revision: str | None) -> None:
    """Make sure that a name can be a branch's; None is the main one.

    Raises:
        ValueError: it cannot.
    """
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        raise ValueError(f"revision {revision!r} cannot be a branch")


def about(readme: Path) -> str:
    """What a README says below its metadata and its title; nothing if there is none, or one that a card came from."""
    if not readme.is_file():
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    body = "\n".join(line for line in text.strip().splitlines() if not line.startswith("# "))
    return "" if "Written by `ediffi publish`" in body else re.sub(r"^#", "##", body, flags=re.MULTILINE).strip()


def size(content: Path | bytes) -> int:
    """In bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _config(place: Path, config: Mapping[str, Any], parts: Mapping[str, Part]) -> Path | bytes:
    """The folder's own file, so that the model keeps its hash; of an older one, completed."""
    if "files" in config:
        check_encoder_files(place, config)
        return place / CONFIG
    whole = {
        **config,
        "files": find_encoder_files(place, parts),
        "packages": packages(config["stages"], config["encoders"]),
    }
    return (json.dumps(whole, indent=2) + "\n").encode()


def _evaluations(
    folders: Sequence[Path], place: Path, beside: Path
) -> tuple[dict[str, results.Results], dict[str, Path | bytes]]:
    """Evaluations by their path in the repository, and their files by theirs."""
    judged: dict[str, results.Results] = {}
    files: dict[str, Path | bytes] = {}
    for where in folders:
        found = results.Results.read(where)
        _check_same_model(found, where, place)
        written = model_index.write(found, beside / f"results-{len(judged)}")
        path = f"results/{written[1].stem}"
        if path in judged:
            raise ValueError(f"{where} is of the suite {written[1].stem!r}, and so is another that was given")
        judged[path] = found
        files[f"{model_index.ENTRIES}/{written[1].name}"] = written[1]
        pages = (results.FILE, report.FILE)
        files |= {f"{path}/{page}": where / page for page in pages if (where / page).is_file()}
    return judged, files


def _check_same_model(found: results.Results, where: Path, place: Path) -> None:
    from ediffi.io.files import sha256

    told = {point.settings.get("model_sha256") for point in found.points} - {None}
    if told and (place / CONFIG).is_file() and told != {mine := sha256(place / CONFIG)}:
        other = str(next(iter(told)))
        raise ValueError(
            f"{where} judged another model: one whose {CONFIG} has sha256 {other[:12]}..., and this one's has "
            f"{mine[:12]}..."
        )


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


def _write(content: Content, place: Path) -> Path:
    """Write a publication as a folder, beside its place and then into it; an earlier one is replaced."""
    if place.exists() and not (place / CONFIG).is_file():
        raise FileExistsError(f"{place} exists and is no model; the dry run would write there")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as beside:
        for name, file in content.items():
            path = Path(beside) / "new" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, bytes):
                path.write_bytes(file)
            else:
                shutil.copyfile(file, path)
        if place.exists():
            place.rename(Path(beside) / "old")
        (Path(beside) / "new").rename(place)
    return place
