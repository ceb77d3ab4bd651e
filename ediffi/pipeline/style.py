"""Controls of a generation that are values of their own: a style image, and a second prompt."""

from dataclasses import dataclass

from PIL import Image

from ediffi.io.image_input import ImageInput, read_image
from ediffi.io.numbers import check_number
from ediffi.pipeline.prompt import parse

MAX_ASPECT = 100
"""How many times a style image may be as long as wide. Encoders resize it before they crop it, which would take all
memory of a longer one."""


@dataclass(frozen=True, init=False)
class Style:
    """A style image.

    Args:
        image: of any size, a path, a Pillow image, an array or a tensor, see `ediffi.io.image_input`; laid on white
            where it is transparent; the encoder scales it and crops the centre square. It is kept as RGB.
        scale: strength of the style, at least 0: 1 as in training, 0 none.

    Raises:
        ValueError: the scale is out of range, or the image is hundred times as long as wide; as `read_image`.
    """

    image: Image.Image
    scale: float

    def __init__(self, image: ImageInput, scale: float = 1.0) -> None:
        check_number("style_scale", scale, lambda s: 0 <= s < float("inf"), "at least 0")
        read = read_image(image, "the style image")
        if max(read.size) > MAX_ASPECT * min(read.size):
            raise ValueError(
                f"the style image is {read.width}x{read.height}; at most {MAX_ASPECT} times as long as wide is allowed"
            )
        object.__setattr__(self, "image", read)
        object.__setattr__(self, "scale", float(scale))


@dataclass(frozen=True)
class Switch:
    """A second prompt that takes over in the base stage (eDiff-I, figure 4).

    Args:
        prompt: the second prompt.
        at: share of the base stage's steps, from the noisiest, that the first prompt keeps. Super-resolution stages
            read the prompt that had the larger share.
    """

    prompt: str
    at: float

    def __post_init__(self) -> None:
        parse(self.prompt)
        check_number("switch at", self.at, lambda share: 0 <= share <= 1, "in [0, 1], a share of the steps")
