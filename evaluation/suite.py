"""Suites: which captions a model is judged on, at which size and settings, and by which networks; YAML files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ediffi.evaluation.results import MAX_POINTS
from ediffi.io.recipes import one_sentence, recipe_parser

SHIPPED = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class ClipChoice:
    """The CLIP that scores. The paper names the network (section 5); which of its weights is our choice."""

    model: str = "ViT-g-14"
    pretrained: str = "laion2b_s12b_b42k"  # open_clip's tag of the weights
    path: str | None = None  # a folder with its files, or a repository on the Hub; the tag's own by default


LARGEST = 8192
"""Side of images; a larger one would take all memory."""


@dataclass(frozen=True)
class Suite:
    """A protocol of evaluation."""

    name: str
    dataset: Literal["coco2014", "visual-genome", "emoji", "toybox", "own"]
    count: int  # captions, of different images
    about: str = ""  # one line for people
    seed: int = 0  # of the selection and of the images: image k is made with (seed, k)
    image_size: int = 256  # side, of generated and real images
    other_sizes: Literal["refused", "resized"] = "refused"  # generated images of another size: see `judge.SQUARE`
    reference: Literal["all", "chosen"] = "all"  # real images: all of the dataset, or those of the captions
    guidance_scales: Sequence[float] = ()  # one point for each; the model's own if empty
    paint_weight: float | None = None  # w' of prompts with painted areas; the model's own if None
    style_scale: float = 1.0  # strength of the style images of prompts, at least 0; 1 as in training
    feature_extractor: str = "inception-v3-compat"  # of torch-fidelity, "efficientnet-lite0", or "clip", which scores
    feature_weights: str | None = None  # a file; the library's own by default
    more_features: Mapping[str, str | None] = field(default_factory=dict)  # further extractors, each with its weights
    scorers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by name, each with its arguments
    clip: ClipChoice | None = ClipChoice()  # None: no CLIP score
    dataset_options: Mapping[str, Any] = field(default_factory=dict)  # such as {"length": "long"} of Toybox
    hub_dataset: str | None = None  # OWNER/NAME of the dataset on the Hub, for the entries of its leaderboard

    def __post_init__(self) -> None:
        for name, least in (("count", 2), ("seed", 0), ("image_size", 16)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.image_size > LARGEST:
            raise ValueError(f"image_size must be at most {LARGEST}, got {self.image_size}")
        if not 0 <= self.style_scale < math.inf:
            raise ValueError(f"style_scale must be at least 0, got {self.style_scale}")
        scales = list(self.guidance_scales)
        if any(scale < 0 for scale in scales) or len(set(scales)) != len(scales):
            raise ValueError(f"guidance_scales must be different and at least 0, got {scales}")
        if len(scales) > MAX_POINTS:
            raise ValueError(f"guidance_scales must be at most {MAX_POINTS}, got {len(scales)}")
        if self.feature_extractor in self.more_features or "clip" in self.more_features:
            raise ValueError(f"more_features must be others than {self.feature_extractor!r} and 'clip'")

    def described(self) -> dict[str, Any]:
        """The suite as plain JSON values; paths are cut to their last part, which is the same on every machine."""
        values = {**asdict(self), "guidance_scales": list(self.guidance_scales)}
        if self.style_scale == 1:  # as in the results of before there was another
            del values["style_scale"]
        if self.clip is not None and self.clip.path is not None:
            values["clip"]["path"] = _last(self.clip.path)
            if Path(self.clip.path, "open_clip_config.json").is_file():  # which names the network instead
                values["clip"] = {"path": values["clip"]["path"]}
        values["feature_weights"] = self.feature_weights and Path(self.feature_weights).name
        values["more_features"] = {name: file and Path(file).name for name, file in self.more_features.items()}
        values["scorers"] = {
            name: {key: _last(value) if isinstance(value, str) else value for key, value in (given or {}).items()}
            for name, given in self.scorers.items()
        }
        return values

    def with_clip(self, path: str) -> "Suite":
        """The suite with another CLIP: a folder, or a repository on the Hub."""
        return replace(self, clip=replace(self.clip or ClipChoice(), path=path))


def _last(path: str) -> str:
    """The last part of a path that is there; another text, such as a repository of the Hub, as it is."""
    return Path(path).name if Path(path).exists() else path


def shipped() -> list[str]:
    """Names of the suites that ship with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_suite(name: str | Path, **changes: Any) -> Suite:
    """A suite that ships, by its name, or one in a YAML file; `changes` that are not None replace its values."""
    from jsonargparse import ArgumentError

    path = SHIPPED / f"{name}.yaml" if str(name) in shipped() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no suite {str(name)!r}; there are {', '.join(shipped())}, or give a YAML file")
    parser = recipe_parser()
    parser.add_class_arguments(Suite)
    try:
        suite = Suite(**parser.instantiate(parser.parse_path(str(path))).as_dict())
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a suite: {one_sentence(error)}") from None

    def beside(name: str | None) -> str | None:
        return name if name is None or not (path.parent / name).exists() else str((path.parent / name).resolve())

    clip = suite.clip and replace(suite.clip, path=beside(suite.clip.path))
    suite = replace(suite, clip=clip, feature_weights=beside(suite.feature_weights))
    return replace(suite, **{key: value for key, value in changes.items() if value is not None})
