"""Publishing a model: what goes up, checked before anything does; `ediffi publish` and `Cascade.push_to_hub`."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ediffi.evaluation import model_index, report, results
from ediffi.hub import listing
from ediffi.hub.card import Facts, card
from ediffi.hub.repository import REVISION, check_repository
from ediffi.hub.samples import SAMPLES, paint
from ediffi.hub.upload import Content, upload
from ediffi.pipeline import folder
from ediffi.pipeline.manifest import Part
from ediffi.registry.core import HUB_ID
from ediffi.training.publishable import left_out, model_folder

if TYPE_CHECKING:
    from ediffi.pipeline.cascade import Cascade

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        repository: "organisation/name".
        license: an identifier of the Hub ("apache-2.0").
        evaluations: folders that `ediffi evaluate` wrote.
        recipes: YAML files.
        device: where the sample grid is painted.

    Raises:
        ValueError: the repository cannot be one, or there is no licence.
    """

    repository: str
    license: str
    evaluations: Sequence[Path] = ()
    recipes: Sequence[Path] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_repository(self.repository)
        if not LICENSE.fullmatch(self.license):
            raise ValueError(
                f"a model is published under a licence, as --license apache-2.0 or openrail; got {self.license!r}"
            )


@contextmanager
def publication(source: Path, order: Order) -> Iterator[tuple[Content, list[str]]]:
    """Everything that goes up, by its path in the repository, `config.json` last; and what is left out of the folder.

    Args:
        source: a model folder, the stage that `ediffi grow` left, or the training run of a stage.
        order: how.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the folder is not tidy, something in it or in the order is broken or of another model, or an
            encoder lies where nobody else could read it.
    """
    with tempfile.TemporaryDirectory(prefix="ediffi-publish-") as beside:
        place = model_folder(source, Path(beside))
        config = folder.read_config(place)
        parts = {name: Part(**entry) for name, entry in config["encoders"].items()}
        check_portable(place, parts)
        rest = left_out(place, config)
        judged, files = _evaluations(order.evaluations, place, Path(beside))
        recipes = _recipes(order.recipes)
        prompts = paint(place, Path(beside) / SAMPLES, order.device)
        told = about(place / "README.md")
        linked = [name for name in rest if f"({name})" in told]
        facts = Facts(order.repository, order.license, place, config, prompts, judged, list(recipes), told)
        names = [*listing.weights(config["stages"]), *listing.find_encoder_files(place, parts), *linked]
        content: dict[str, Path | bytes] = {name: place / name for name in names}
        content |= {**recipes, **files, "README.md": card(facts).encode()}
        if prompts:
            content[SAMPLES] = Path(beside) / SAMPLES
        content[folder.CONFIG] = _config(place, config, parts)
        yield content, [name for name in rest if name not in content]


def publish(
    source: Path, order: Order, private: bool = False, revision: str | None = None, dry_run: bool = False
) -> str:
    """Publish a model; see `publication` and `upload`.

    Args:
        source: a model folder, the stage that `ediffi grow` left, or the training run of a stage.
        order: how.
        private: only for its owners, if the repository is new.
        revision: branch to publish on.
        dry_run: write what would go up into `<source>-published`, and do nothing else; no network is used.

    Returns:
        The address of the commit, or the folder of the dry run.

    Raises:
        ValueError: as `publication` and `upload`, or the revision cannot be a branch.
        OSError: as `publication` and `upload`.
    """
    check_branch(revision)
    with publication(source, order) as (content, rest):
        for name, file in content.items():
            print(f"  {size(file):>12,}  {name}")
        total = sum(size(file) for file in content.values())
        print(f"  {total:>12,}  bytes in {len(content)} files for {order.repository}")
        if rest:
            print(f"left out, no part of the model: {', '.join(rest)}")
        if dry_run:
            return str(_write(content, source.resolve().with_name(f"{source.resolve().name}-published")))
        return upload(content, order.repository, private, revision)


def push(
    cascade: "Cascade", repository: str, *, license: str, private: bool = False, revision: str | None = None
) -> str:
    """Publish a loaded cascade, as it is now, and return the address; see `publish`."""
    order = Order(repository, license, device=str(cascade.device))
    check_branch(revision)
    with (
        tempfile.TemporaryDirectory(prefix="ediffi-push-") as beside,
        publication(save_loaded(cascade, Path(beside) / "model"), order) as (content, _),
    ):
        return upload(content, repository, private, revision)


def save_loaded(cascade: "Cascade", place: Path) -> Path:
    """Write a loaded cascade as a model folder; see `folder.save_again`.

    Raises:
        ValueError: it was not loaded from a folder, so nobody knows the registry names of its parts.
    """
    if cascade.source is None:
        raise ValueError(
            f"the cascade {cascade.name!r} was built in Python, so the registry names of its parts are not known; "
            "`ediffi compose` writes folders of training runs"
        )
    return folder.save_again(cascade.source, place, cascade.stages)


def check_portable(place: Path, parts: Mapping[str, Part]) -> None:
    """Make sure that the encoders can be read elsewhere: from the folder itself, or from the Hub.

    Raises:
        ValueError: one cannot.
    """
    for source, part in parts.items():
        path = part.arguments.get("path")
        if not isinstance(path, str) or ((place / path).is_dir() and not Path(path).is_absolute()):
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
        listing.check_files(place, config)
        return place / folder.CONFIG
    whole = {
        **config,
        "files": listing.find_encoder_files(place, parts),
        "packages": listing.packages(config["stages"], config["encoders"]),
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
    if told and (place / folder.CONFIG).is_file() and told != {mine := sha256(place / folder.CONFIG)}:
        other = str(next(iter(told)))
        raise ValueError(
            f"{where} judged another model: one whose {folder.CONFIG} has sha256 {other[:12]}..., and this one's has "
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
    if place.exists() and not (place / folder.CONFIG).is_file():
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
