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
        path: a folder with its files, or a repository on the Hub; by default the tag's own repository.
    """

    model: str = "ViT-g-14"
    pretrained: str = "laion2b_s12b_b42k"
    path: str | None = None


@dataclass(frozen=True)
class Suite:
    """A protocol of evaluation.

    Attributes:
        name: of the suite.
        about: one line for people.
        dataset: "coco2014", "visual-genome" or "toybox".
        count: number of captions, of different images.
        seed: of the selection and of the images: image k is made with (seed, k).
        image_size: side of the images, generated and real.
        guidance_scales: one point for each; the model's own if empty.
        feature_extractor: computes the features: a name of torch-fidelity's, or "clip" for the CLIP that scores.
        feature_weights: a file with its weights; the library's own by default.
        clip: the CLIP that scores.
        dataset_options: arguments of the dataset, such as {"length": "long"} of Toybox.

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
        for name, least in (("count", 2), ("seed", 0), ("image_size", 16)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        scales = list(self.guidance_scales)
        if any(scale < 0 for scale in scales) or len(set(scales)) != len(scales):
            raise ValueError(f"guidance_scales must be different and at least 0, got {scales}")

    def described(self) -> dict[str, Any]:
        """The suite as plain JSON values; paths are cut to their last part, which is the same on every machine."""
        values = {**asdict(self), "guidance_scales": list(self.guidance_scales)}
        values["clip"]["path"] = self.clip.path and Path(self.clip.path).name
        values["feature_weights"] = self.feature_weights and Path(self.feature_weights).name
        return values

    def with_clip(self, path: str) -> "Suite":
        """The suite with another CLIP: a folder, or a repository on the Hub."""
        return replace(self, clip=replace(self.clip, path=path))


def shipped() -> list[str]:
    """Names of the suites that ship with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_suite(name: str | Path, **changes: Any) -> Suite:
    """A suite that ships, by its name, or the suite in a YAML file; `changes` that are not None replace its values.

    A `path` of the CLIP and `feature_weights` may be relative to the file.

    Raises:
        FileNotFoundError: there is no such suite; the message lists those that ship.
        ValueError: the file is not a suite, or a value is not allowed.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    path = SHIPPED / f"{name}.yaml" if str(name) in shipped() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no suite {str(name)!r}; there are {', '.join(shipped())}, or give a YAML file")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Suite)
    try:
        suite = Suite(**parser.instantiate(parser.parse_path(str(path))).as_dict())
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a suite: {' '.join(str(error).split())}") from None

    def beside(name: str | None) -> str | None:
        return name if name is None or not (path.parent / name).exists() else str((path.parent / name).resolve())

    clip = replace(suite.clip, path=beside(suite.clip.path))
    suite = replace(suite, clip=clip, feature_weights=beside(suite.feature_weights))
    return replace(suite, **{key: value for key, value in changes.items() if value is not None})
