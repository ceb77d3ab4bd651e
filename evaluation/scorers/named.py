"""Scorers by name, and their protocol: see the package."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from torch import Tensor

from ediffi.registry.core import Registry

Scorer = Callable[[Sequence[Image.Image], Sequence[str]], Any]
"""Takes RGB images and their captions; returns a tensor or a sequence with a number for each."""
scorers: Registry[Scorer] = Registry("scorers")
register = scorers.register


@dataclass(frozen=True)
class NamedScorer:
    """A scorer with its name, and a protocol of plain JSON values that says all its scores depend on."""

    name: str
    scorer: Scorer
    protocol: Mapping[str, Any]

    @property
    def pairs(self) -> bool:
        """Whether it compares two images, which are given side by side as one: `scorer(images, others) -> [n]`."""
        return bool(getattr(self.scorer, "pairs", False))

    def prepare(self, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
        """The image's bytes, unchanged; called in the processes that decode."""
        from torchvision.transforms.functional import pil_to_tensor

        return pil_to_tensor(image)

    def __call__(self, images: UInt8[Tensor, "b 3 h w"], captions: Sequence[str]) -> Float32[Tensor, " b"]:
        """The scores of a batch; ValueError: the scorer raised, or did not return a number for each image."""
        from torchvision.transforms.functional import to_pil_image

        try:
            if self.pairs:
                first, second = images.chunk(2, dim=3)
                found = self.scorer(*([to_pil_image(image) for image in half] for half in (first, second)))
            else:
                found = self.scorer([to_pil_image(image) for image in images], list(captions))
            scores = torch.as_tensor(found, dtype=torch.float32).detach().cpu()
        except Exception as error:  # of anybody's code
            raise ValueError(f"the scorer {self.name} failed: {type(error).__name__}: {error}") from error
        if scores.shape != (len(images),):
            got = f"an array of shape {list(scores.shape)}"
            raise ValueError(f"the scorer {self.name} must return {len(images)} numbers, and returned {got}")
        return scores


def load(name: str, arguments: Mapping[str, Any] | None = None, device: str | torch.device = "cpu") -> NamedScorer:
    """Build a registered scorer. UnknownNameError lists near names; ValueError: it takes no such argument, or no such
    value, or needs one that is not given."""
    given = dict(arguments or {})
    placed = {"device": str(device)} if "device" in scorers.arguments(name) else {}
    _check_arguments(name, given)
    scorer = scorers.create(name, **{**placed, **given})
    own = dict(getattr(scorer, "protocol", {"arguments": given}))
    return NamedScorer(name, scorer, {"name": name, "from": scorers.origin(name), **own})


def _check_arguments(name: str, given: Mapping[str, Any]) -> None:
    parameters, hints = inspect.signature(scorers.factory(name)).parameters, get_type_hints(scorers.factory(name))
    needed = [key for key, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    if given.keys() <= parameters.keys() and (missing := [key for key in needed if key not in given]):
        key = missing[0]
        raise ValueError(f"the scorer {name} needs {key}: in a suite, scorers: {{{name}: {{{key}: ...}}}}")
    for key, value in given.items():
        try:
            TypeAdapter(hints.get(key, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Input ")
            raise ValueError(f"{key} of the scorer {name} {reason}, got {value!r:.80}") from None
        except PydanticSchemaGenerationError:  # a type of a plug-in that no suite can give
            continue
