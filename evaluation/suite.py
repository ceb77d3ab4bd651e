"""Suites: which captions a model is judged on, at which size and settings, and by which networks; YAML files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

SHIPPED = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class ClipChoice:
    """The CLIP that scores.

    Attributes:
        model: open_clip's name of the network; the paper scores with ViT-g/14 (section 5).
        pretrained: open_clip's tag of the weights. Our choice: the paper does not say which of the two.
        path: a folder with its files, or a repository of the Hub; by default the tag's own repository.
    """

    model: str = "ViT-g-14"
    pretrained: str = "laion2b_s12b_b42k"
    path: str | None = None


@dataclass(frozen=True)
class Suite:
    """What a model is judged on.

    Attributes:
        name: of the suite.
        about: one line for people.
        dataset: "coco2014", "visual-genome" or "toybox".
        count: how many captions, of different pictures.
        seed: of the selection, and of the pictures: picture k is made with (seed, k).
        image_size: side of the pictures, generated and real.
        guidance_scales: each gives a point; empty for the model's own.
        feature_extractor: whose features are compared: a name of torch-fidelity's, or "clip" for the CLIP that scores.
        feature_weights: a file with its weights; by default where the library keeps them.
        clip: the CLIP that scores.
        dataset_options: arguments of the data set, such as {"length": "long"} of Toybox.

    Raises:
        ValueError: a number is out of range.
    """

    name: str
    dataset: Literal["coco2014", "visual-genome", "toybox"]
    count: int
    about: str = ""
    seed: int = 0
    image_size: int = 256
    guidance_scales: Sequence[float] = ()
    feature_extractor: str = "inception-v3-compat"
    feature_weights: str | None = None
    clip: ClipChoice = ClipChoice()
    dataset_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"count must be at least 2, got {self.count}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.image_size < 16:
            raise ValueError(f"image_size must be at least 16, got {self.image_size}")
        scales = list(self.guidance_scales)
        if any(scale < 0 for scale in scales) or len(set(scales)) != len(scales):
            raise ValueError(f"guidance_scales must be different and at least 0, got {scales}")

    def described(self) -> dict[str, Any]:
        """The suite as plain JSON values; of a path only its last part, which means something elsewhere too."""
        values = {**asdict(self), "guidance_scales": list(self.guidance_scales)}
        values["clip"]["path"] = self.clip.path and Path(self.clip.path).name
        values["feature_weights"] = self.feature_weights and Path(self.feature_weights).name
        return values

    def with_clip(self, path: str) -> "Suite":
        """The suite with another CLIP: a folder, or a repository of the Hub."""
        return replace(self, clip=replace(self.clip, path=path))


def shipped() -> list[str]:
    """Names of the suites that ship."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_suite(name: str | Path, **changes: Any) -> Suite:
    """A suite that ships, by its name, or the suite in a YAML file; `changes` replace what is not None.

    A `path` of the CLIP or `feature_weights` that names something beside the file is taken from there.

    Raises:
        FileNotFoundError: there is no such suite; the message lists those that ship.
        ValueError: the file is not a suite, or a value is not allowed.
    """
    path = SHIPPED / f"{name}.yaml" if str(name) in shipped() else Path(name)
    if not path.is_file():
        known = ", ".join(shipped())
        raise FileNotFoundError(f"no suite {str(name)!r}: those that ship are {known}; or name a YAML file")
    suite = _parsed(path)
    clip = replace(suite.clip, path=_beside(path, suite.clip.path))
    suite = replace(suite, clip=clip, feature_weights=_beside(path, suite.feature_weights))
    return replace(suite, **{key: value for key, value in changes.items() if value is not None})


def _parsed(path: Path) -> Suite:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Suite)
    try:
        values = parser.parse_path(str(path))
        return Suite(**parser.instantiate(values).as_dict())
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a suite: {' '.join(str(error).split())}") from None


def _beside(file: Path, name: str | None) -> str | None:
    return name if name is None or not (file.parent / name).exists() else str((file.parent / name).resolve())
