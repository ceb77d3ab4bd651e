"""Paint-with-words (eDiff-I, section 4.3): each phrase of a layout is drawn in its own area of the image.

In every cross-attention layer the scores of a phrase's tokens, in all text encoders, are raised inside its area by
`w'·log(1+sigma)·max(QKᵀ)`. `ediffi.registry.denoisers.attention` does that; here a layout becomes its input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ediffi.diffusion.layout import SIDE, Region
from ediffi.registry.encoders.spans import occurrences
from ediffi.registry.types import Conditioning, Denoiser, Encoder, Paint, TextEncoder, at_level


@dataclass(frozen=True)
class PaintWithWords:
    """`w'·log(1+sigma)` becomes the strength of the paint, at the noise level of each call; w' = 0 removes it."""

    denoiser: Denoiser
    paint_weight: float

    def __call__(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Estimate of the clean images."""
        if cond.paint is None:
            return self.denoiser(x, sigma, cond)
        strength = cond.paint.strength * self.paint_weight * sigma.log1p()
        paint = replace(cond.paint, strength=strength) if self.paint_weight else None
        return self.denoiser(x, sigma, replace(cond, paint=paint))

    def at(self, sigma: float) -> "PaintWithWords":
        """The same, of the denoiser at one noise level."""
        return replace(self, denoiser=at_level(self.denoiser, sigma))


def paint(encoders: Mapping[str, Encoder], texts: Sequence[str], layouts: Sequence[Sequence[Region]]) -> Paint:
    """The `Paint` of a batch of prompts, with strength 1 for those that have regions.

    Encoders that are no `TextEncoder` are left out. ValueError: a phrase is not in its text, or not as often as
    `occurrence` says, or every encoder truncates the text before it.
    """
    readers = {name: encoder for name, encoder in encoders.items() if isinstance(encoder, TextEncoder)}
    regions = max(1, *(len(layout) for layout in layouts))
    lengths = {name: reader.tokenize(list(texts))[0].shape[1] for name, reader in readers.items()}
    areas = torch.zeros(len(texts), regions, SIDE, SIDE)
    tokens = {name: torch.zeros(len(texts), regions, length) for name, length in lengths.items()}
    for row, (text, layout) in enumerate(zip(texts, layouts, strict=True)):
        for index, region in enumerate(layout):
            mask, size = region.mask, (SIDE, SIDE)
            if mask.shape != size:
                mask = F.interpolate(mask[None, None], size, mode="bilinear", antialias=True)[0, 0]
            areas[row, index] = mask
            spans = places(text, region)
            found = [(n, list(r.token_range(text, *span))) for n, r in readers.items() for span in spans]
            if not any(positions for _, positions in found):
                raise ValueError(f"no encoder reads the phrase {region.phrase!r}: the prompt before it is too long")
            for name, positions in found:
                tokens[name][row, index, positions] = region.weight
    return Paint(areas, tokens, torch.tensor([float(bool(layout)) for layout in layouts]))


def places(text: str, region: Region) -> list[tuple[int, int]]:
    """Character ranges [start, end) of a region's phrase in a text; ValueError for fewer than `occurrence` says."""
    spans = occurrences(text, region.phrase)
    if not spans:
        raise ValueError(f"the phrase {region.phrase!r} is not in the prompt {text!r}")
    if region.occurrence is None:
        return spans
    if region.occurrence > len(spans):
        raise ValueError(f"{region.phrase!r} is {len(spans)} times in the prompt; occurrence is {region.occurrence}")
    return [spans[region.occurrence - 1]]
