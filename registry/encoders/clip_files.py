"""open_clip models from folders and from the Hub. Weights are safetensors only: nothing is unpickled."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from ediffi.registry.core import HUB_ID
from ediffi.registry.encoders.folder import WANTED_TOKENIZER, check_folder, from_hub, read_json, unavailable

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
PINNED = {"timm/vit_large_patch14_clip_224.openai": "18d0535469bb561bf468d76c1d73aa35156c922b"}
"""Commit of a repository where no revision is given: OpenAI's weights of ViT-L/14."""


def load_clip(folder: str | Path) -> tuple[nn.Module, Any]:
    """The open_clip model and tokenizer of a local folder; cached, so that both encoders of a folder share the model.

    The folder has open_clip_config.json (`model_cfg`, `preprocess_cfg`), open_clip_model.safetensors and, if the config
    names an `hf_tokenizer_name`, the tokenizer's files. Nothing is downloaded and no code is loaded. FileNotFoundError
    names a missing file; ValueError a broken one, or a text tower that would have to be downloaded.
    """
    path = Path(folder)
    check_folder(path, [CONFIG, WEIGHTS], "a CLIP")
    model = read_json(path / CONFIG).get("model_cfg")
    text = model.get("text_cfg") if isinstance(model, dict) else None
    if not isinstance(text, dict):
        raise ValueError(
            f"{str(path / CONFIG)!r} is not the config of an open_clip model: no model_cfg with a text_cfg"
        )
    if tower := text.get("hf_model_name"):
        raise ValueError(f"{str(path / CONFIG)!r} asks for the text tower {tower!r}, which is not in the folder")
    if own_tokenizer := bool(text.get("hf_tokenizer_name")):
        check_folder(path, WANTED_TOKENIZER, "the tokenizer of this CLIP")
    return _load(f"local-dir:{path.resolve()}", own_tokenizer, None, str(path / WEIGHTS), _written(path))


def load_clip_named(
    name: str, pretrained: str, path: str | None = None, revision: str | None = None, option: str = "path"
) -> tuple[nn.Module, Any]:
    """A model that open_clip knows by name and tag ("ViT-L-14", "openai"), and its tokenizer.

    Not by open_clip's own download, which takes the newest commit and possibly a pickle, and builds ViT-L-14 with
    another activation (GELU) than OpenAI's weights were trained with (QuickGELU), with only a warning.

    `path` is a folder with the weights, or "organisation/name" of the Hub; by default the tag's repository. An
    open_clip_config.json beside the weights replaces the settings of name and tag. `revision` is by default the one in
    `PINNED`, if any; `option` is what takes a folder, in messages. FileNotFoundError if the weights are missing;
    ValueError for an unknown tag or a broken file.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        raise ValueError(f"open_clip has no weights {pretrained!r} of {name!r}; it has {', '.join(tags) or 'none'}")
    source, revision = clip_source(pretrained, path, revision, name)
    folder = Path(source) if is_local(source) else _fetch(source, revision, bool(path), option)
    if path and (folder / CONFIG).is_file():
        return load_clip(folder)
    check_folder(folder, [WEIGHTS], "a CLIP")
    return _load(name, False, pretrained, str(folder / WEIGHTS), _written(folder))


def clip_source(
    pretrained: str, path: str | None = None, revision: str | None = None, name: str = "ViT-L-14"
) -> tuple[str, str | None]:
    """The folder or repository of the Hub with the weights of open_clip's network `name`, and the revision."""
    import open_clip

    source = path or str(open_clip.get_pretrained_cfg(name, pretrained)["hf_hub"]).rstrip("/")
    return source, revision or PINNED.get(source)


def is_local(source: str) -> bool:
    """Whether `source` means a local folder and not "organisation/name" of the Hub."""
    return Path(source).is_dir() or not HUB_ID.fullmatch(source)


def _fetch(repository: str, revision: str | None, with_config: bool, option: str) -> Path:
    try:
        folder = from_hub(repository, revision, [WEIGHTS, *([CONFIG, *WANTED_TOKENIZER] if with_config else [])])
        check_folder(folder, [WEIGHTS], "a CLIP")
    except OSError as error:
        advice = f"where there is a network, download its {WEIGHTS}, and give the folder that you put it in as {option}"
        raise unavailable(f"the CLIP {repository!r}", revision, error, advice) from error
    return folder


def _written(folder: Path) -> tuple[int, int]:
    """Part of the cache's key: a folder whose weights were replaced is loaded again."""
    status = (folder / WEIGHTS).stat()
    return status.st_mtime_ns, status.st_ino


def forget_clips() -> None:
    """Read each CLIP anew from now on. Encoders share one, and moving one of them moves the others."""
    _load.cache_clear()


@lru_cache(maxsize=2)
def _load(
    source: str, own_tokenizer: bool, tag: str | None, weights: str, written: tuple[int, int]
) -> tuple[nn.Module, Any]:
    import open_clip

    options: dict[str, Any] = {}
    if tag is not None:
        settings = open_clip.get_pretrained_cfg(source, tag)
        options = {"pretrained": weights, "force_quick_gelu": bool(settings.get("quick_gelu"))}
        options |= {f"image_{key}": settings[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    try:
        model, _, _ = open_clip.create_model_and_transforms(source, **options)
    except RuntimeError as error:  # load_state_dict's, a line for each kind of error
        why = str(error).splitlines()[1:2] or [str(error)]
        raise ValueError(f"{weights!r} is not of the CLIP that its config describes: {why[0].strip()}") from None
    state = model.state_dict()
    with safe_open(weights, framework="pt") as file:  # open_clip would interpolate positions of another number
        for name in (key for key in file.keys() if "positional_embedding" in key and key in state):  # noqa: SIM118
            if (found := file.get_slice(name).get_shape()) != (wanted := list(state[name].shape)):
                raise ValueError(f"{weights!r} has {name} of shape {found}, and its config describes {wanted}")
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False} if own_tokenizer else {}
    return model.eval().requires_grad_(False), open_clip.get_tokenizer(source, **safe)
