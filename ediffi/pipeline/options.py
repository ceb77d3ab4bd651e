"""What a call of the cascade may ask for besides words, and how it is written down."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Style:
    """A reference picture.

    Args:
        image: RGB, of any size; the CLIP encoder scales it and cuts out the central square.
        scale: how much of it: 1 as the model was trained, 0 nothing, more is more style.

    Raises:
        ValueError: `scale` is negative.
    """

    image: Image.Image
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"style_scale must be at least 0, got {self.scale}")


@dataclass(frozen=True)
class Switch:
    """Another prompt that takes over in the base stage (eDiff-I, figure 4).

    Args:
        prompt: the later prompt.
        at: share of the base stage's steps, from the noisiest, that the first prompt keeps. Later stages, which only
            sharpen, read the prompt that had the larger share.

    Raises:
        ValueError: `at` is out of [0, 1].
    """

    prompt: str
    at: float

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise ValueError(f"the prompt can be switched at a share of the steps in [0, 1], got {self.at}")


def described(**controls: Any) -> dict[str, Any]:
    """Controls as plain JSON values, those that are not used left out; pictures and masks by their hash."""

    def plain(value: Any) -> Any:
        if isinstance(value, Image.Image):
            pixels = value.convert("RGB")
            return {"size": list(value.size), "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
        if isinstance(value, Tensor):
            return {"size": list(value.shape), "sha256": hashlib.sha256(value.numpy().tobytes()).hexdigest()}
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {name: plain(value) for name, value in controls.items() if _given(value)}


def _given(value: Any) -> bool:
    return value is not None and not (isinstance(value, list | tuple) and not value)
