"""Scores from CLIP: how well image and caption fit, and how pleasing an image is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from ediffi.data.embedding.identity import build, identity
from ediffi.data.filtering.aesthetic import find_head, load_head
from ediffi.hub.config import Part
from ediffi.io.files import sha256
from ediffi.io.images import square
from ediffi.registry import encoders


@dataclass(frozen=True)
class AestheticHead:
    """Where an aesthetic head is stored.

    Args:
        weights: a `.safetensors` file, or "organisation/name" of the Hub.
        revision: branch, tag or commit of the Hub.
    """

    weights: str
    revision: str | None = None


@dataclass(frozen=True)
class ScoreSettings:
    """What is measured, and with what.

    Args:
        clip_image: the registered image encoder; None where the metadata hold all scores.
        clip_text: the registered text encoder of the same CLIP; None where the metadata hold the alignment.
        aesthetic: the head on `clip_image`; None where the metadata hold the aesthetic score.
        similarity: the metadata field that holds the alignment, as LAION's does; None to compute it always. A score
            from the metadata is that of another CLIP, mostly ViT-B/32, whose scores are higher.
        aesthetic_score: the metadata field that holds the aesthetic score; None to compute it always.
        hash: what makes two images duplicates. "bytes": equal files. "perceptual": equal 64-bit pHashes of imagehash,
            as a photograph and its smaller or compressed copies mostly have; it ignores colour and fine detail.
        batch_size: images that go through CLIP together.

    Raises:
        ValueError: a part is missing that another needs, or `batch_size` is not positive.
    """

    clip_image: Part | None = None
    clip_text: Part | None = None
    aesthetic: AestheticHead | None = None
    similarity: str | None = "similarity"
    aesthetic_score: str | None = "AESTHETIC_SCORE"
    hash: Literal["bytes", "perceptual"] = "bytes"
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.clip_image is None and (self.clip_text or self.aesthetic):
            missing = "clip_text" if self.clip_text else "aesthetic"
            raise ValueError(f"{missing} needs a clip_image beside it")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")


class Scorer:
    """Computes the alignment of images with their captions, and their aesthetic scores.

    ValueError: an encoder is of another kind, or the two encoders or the head are not of one CLIP.
    """

    def __init__(self, settings: ScoreSettings, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.image = _built("clip_image", settings.clip_image, "image", device)
        self.text = _built("clip_text", settings.clip_text, "text", device)
        self.head: nn.Sequential | None = None
        if settings.aesthetic is not None:
            self.head = load_head(settings.aesthetic.weights, settings.aesthetic.revision).to(device)
        if self.text is not None and self.text.pooled_width != self.image.width:
            raise ValueError(
                f"clip_text has embeddings of width {self.text.pooled_width}, clip_image of {self.image.width}: they "
                "are not of one CLIP"
            )
        if self.head is not None and (width := next(self.head.parameters()).shape[1]) != self.image.width:
            raise ValueError(
                f"the aesthetic head reads embeddings of width {width}, clip_image makes {self.image.width}: the "
                "public heads are of OpenAI's ViT-L/14"
            )

    def claim(self) -> dict[str, Any]:
        """What measures depend on, plain JSON."""
        known = {name: value for name, value in asdict(self.settings).items() if name != "batch_size"}
        for name, encoder in (("clip_image", self.image), ("clip_text", self.text)):
            if encoder is not None:
                known[name] = identity(getattr(self.settings, name), encoder)
        if head := self.settings.aesthetic:
            known["aesthetic"] = {"sha256": sha256(find_head(head.weights, head.revision))}
        return known

    def prepare(self, image: Image.Image) -> UInt8[Tensor, "3 s s"]:
        """The input of CLIP for an RGB image: the centre square at CLIP's size."""
        return torch.from_numpy(np.array(square(image, self.image.size))).permute(2, 0, 1)

    @torch.no_grad()
    def __call__(
        self, images: UInt8[Tensor, "b 3 s s"], captions: Sequence[str]
    ) -> tuple[list[float | None], list[float | None]]:
        """Alignments (cosines) and aesthetic scores of prepared images; None where not computed, as for an empty
        caption."""
        embedded = self.image(images.to(self.device) / 127.5 - 1).tokens[:, 0].float()
        scores: list[float | None] = [None] * len(images) if self.head is None else self.head(embedded)[:, 0].tolist()
        alignments: list[float | None] = [None] * len(images)
        rows = [row for row, caption in enumerate(captions) if self.text and caption.strip()]
        if rows:
            texts = self.text([captions[row] for row in rows]).pooled.float()
            for row, cosine in zip(rows, (texts * embedded[rows]).sum(1).tolist(), strict=True):
                alignments[row] = cosine
        return alignments, scores


def _built(name: str, part: Part | None, reads: Literal["text", "image"], device: str) -> Any:
    if part is None:
        return None
    if (declared := encoders.spec(part.name).reads) != reads:
        raise ValueError(f"{name} must be an encoder that reads {reads}s; {part.name!r} reads {declared}s")
    return build({name: part}, device)[name]
