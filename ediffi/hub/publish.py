"""Publishing a model folder: what is uploaded, checked before anything is; `ediffi publish`, `Cascade.push_to_hub`."""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ediffi
from ediffi.evaluation import model_index, report, results
from ediffi.hub import config as hub_config
from ediffi.hub.card import LIBRARY, card
from ediffi.hub.errors import plain_errors
from ediffi.hub.finding import CONFIG, PICKLES, REVISION
from ediffi.io import plain_yaml
from ediffi.io.files import replacing_folder, sha256
from ediffi.io.hub_client import check_commit, guard
from ediffi.registry.core import HUB_ID

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

logger = logging.getLogger(__name__)

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
SAMPLES = "samples.png"
NEUTRAL = (".gitattributes", "README.md", "LICENSE", ".gitignore")
"""Files that a repository without a model may have."""
LARGE = 1 << 20
"""Bytes; a larger file that is no part of the model is refused, a smaller one is left out and named."""

Content = Mapping[str, Path | bytes]
"""Files, or their content, by their path in the repository."""
PaintSamples = Callable[[Path, Path], list[str]]
"""Samples the grid of images of a model folder into a PNG file and returns its prompts; none if it wrote no file."""


@dataclass(frozen=True)
class PublicationOptions:
    """What a model is published with; ValueError for an impossible repository or license."""

    repository: str
    license: str  # an identifier of the Hub
    evaluations: Sequence[Path] = ()  # folders that `ediffi evaluate` wrote
    recipes: Sequence[Path] = ()

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not re-exported

        try:
            validate_repo_id(self.repository if HUB_ID.fullmatch(self.repository) else "")
        except HFValidationError:
            raise ValueError(f"repository must be ORG/REPO on the Hub, got {self.repository!r}") from None
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
    """Publish a model folder on a branch of the Hub; returns the address of the commit. Raises as its steps do.

    With `dry_run`, the files are written into that folder instead, without the network.
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

    A ValueError says what is broken or of another model, which large file is no part of the model, or which encoder has
    its files elsewhere on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="ediffi-publish-") as beside:
        config = hub_config.read_config(place)
        parts = hub_config.encoder_parts(config)
        _check_portable(place, parts)
        hashes = hub_config.find_encoder_files(place, parts)
        names = [*hub_config.weight_files(config["stages"]), *hashes]
        rest = _other_files(place, {CONFIG, *names})
        evaluations, files = _evaluations(options.evaluations, place, Path(beside), options.repository)
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
            for file in hub_config.listed_encoder_files(place, config):
                file.check()
            content[CONFIG] = place / CONFIG  # the file itself, so that the model keeps its hash
        else:  # the config of an earlier version
            whole = {**config, "files": hashes, "packages": hub_config.packages(config["stages"], config["encoders"])}
            content[CONFIG] = (json.dumps(whole, indent=2) + "\n").encode()
        yield content, [name for name in rest if name not in content]


def _other_files(place: Path, known: set[str]) -> list[str]:
    """The files of a model folder that are no part of the model; hidden files (`.git`) are ignored."""
    found = []
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if not path.is_file() or name in known or any(part.startswith(".") for part in name.split("/")):
            continue
        if path.stat().st_size > LARGE or path.suffix in (*PICKLES, ".safetensors"):
            # Not left out in silence: its owner might believe that it is published.
            raise ValueError(f"{path} belongs to no stage and no encoder of the model: move it elsewhere, then publish")
        found.append(name)
    return found


def _check_portable(place: Path, parts: Mapping[str, hub_config.Part]) -> None:
    for source, part in parts.items():
        path = part.arguments.get("path")
        if not isinstance(path, str) or hub_config.inside(place, part) is not None:
            continue
        if Path(path).is_dir() or not HUB_ID.fullmatch(path):
            raise ValueError(
                f"the encoder {source} is read from {path!r} on this machine, which nobody else has; compose the model "
                "with encoder_files, or name a repository of the Hub"
            )


def _readme_text(readme: Path) -> str:
    """A README without its metadata and title; nothing if there is none, or if it is a model card."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    body = "\n".join(line for line in text.strip().splitlines() if not line.startswith("# "))
    return "" if "Written by `ediffi publish`" in body else re.sub(r"^#", "##", body, flags=re.MULTILINE).strip()


def _evaluations(
    folders: Sequence[Path], place: Path, beside: Path, repository: str
) -> tuple[dict[str, results.Results], dict[str, Path | bytes]]:
    """Evaluations by their path in the repository, and their files by their paths."""
    from huggingface_hub.constants import ENDPOINT

    evaluations: dict[str, results.Results] = {}
    files: dict[str, Path | bytes] = {}
    for folder in folders:
        found = results.Results.read(folder)
        own = sha256(place / CONFIG)
        for other in {point.settings.get("model_sha256") for point in found.points} - {None, own}:
            hashes = f"{str(other)[:12]}..., not {own[:12]}..."
            raise ValueError(f"{folder} evaluates another model: its {CONFIG} has sha256 {hashes}")
        suite = model_index.slug(str(found.suite.get("name", "suite")))
        path, page = f"results/{suite}", folder / report.FILE
        url = f"{ENDPOINT}/{repository}/blob/main/{path}/{report.FILE}" if page.is_file() else None
        _, entry = model_index.write(found, beside / f"results-{len(evaluations)}", source_url=url)
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
            if path.suffix not in (".yaml", ".yml") or not isinstance(plain_yaml.load(path.read_text()), dict):
                raise ValueError("it is no YAML file with settings")
        except ValueError as error:
            raise ValueError(f"{path} is not a recipe: {' '.join(str(error).split())}") from None
        found[name] = path
    return found


def upload(content: Content, repository: str, private: bool = False, revision: str | None = None) -> str:
    """Publish a model in one commit, which also deletes the files of an earlier model that this one does not have.

    Files that the Hub has already, by their hash, are not sent again: the same call completes an interrupted upload.
    The repository and the branch `revision` are created if they do not exist. A ValueError says that the repository
    holds something else, or is public although `private` is set. Returns the address of the commit.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise PermissionError("Not logged in to the Hub: run `hf auth login` or set HF_TOKEN")
    api = HfApi(library_name=LIBRARY, library_version=ediffi.__version__)
    guard()
    with plain_errors(repository):
        api.create_repo(repository, private=True if private else None, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        info = api.model_info(repository, revision=revision)
        if private and info.private is False:
            raise ValueError(f"{repository} is public: make it private on its page, or publish without --private")
        changes: list[CommitOperationAdd | CommitOperationDelete]
        changes = [CommitOperationAdd(name, file) for name, file in content.items()]
        changes += [CommitOperationDelete(name) for name in sorted(_earlier_files(info) - set(content))]
        message = "Publish the model"  # with the parent, refused if another commit was made since the files were listed
        commit = api.create_commit(
            repository, changes, commit_message=message, revision=revision, parent_commit=info.sha
        )
    return str(commit.commit_url)


def _earlier_files(info: "ModelInfo") -> set[str]:
    """The weights and encoders' files of the model that a repository holds."""
    from huggingface_hub import hf_hub_download

    there = {sibling.rfilename for sibling in info.siblings or []}
    config: Any = None
    if CONFIG in there:
        with suppress(ValueError):
            config = json.loads(
                Path(hf_hub_download(info.id, CONFIG, revision=check_commit(info.sha))).read_text(encoding="utf-8")
            )
    ours = info.card_data is not None and info.card_data.library_name == LIBRARY
    ours = ours or (isinstance(config, dict) and str(config.get("format")).startswith(f"{LIBRARY}-"))
    if not ours and (foreign := sorted(there.difference(NEUTRAL))):
        raise ValueError(
            f"{info.id} holds files that are not of a model of ediffi ({', '.join(foreign[:3])}): choose another "
            "repository, or another branch with --revision"
        )
    try:
        weights = {row["file"] for entry in config["stages"] for row in entry["experts"]}
        return {str(name) for name in weights | set(config.get("files", {}))} & there
    except (KeyError, TypeError, AttributeError):  # a broken config lists nothing
        return set()
