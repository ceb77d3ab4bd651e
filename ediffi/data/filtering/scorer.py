"""CLIP at work on pictures and captions: how well they fit, and how pleasing a picture is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from ediffi.data.embedding.identity import build, identity
from ediffi.data.filtering.aesthetic import find_head, head_width, load_head
from ediffi.hub.config import Part
from ediffi.io.files import sha256
from ediffi.io.images import square
from ediffi.registry import encoders

Scores = tuple[float | None, float | None]
"""Alignment and aesthetic mark."""


@dataclass(frozen=True)
class Head:
    """Where an aesthetic head is.

    Args:
        weights: a `.safetensors` file, or "organisation/name" of the Hub.
        revision: branch, tag or commit of the Hub.
    """

    weights: str
    revision: str | None = None


@dataclass(frozen=True)
class Measuring:
    """What is measured, and with what.

    Args:
        clip_image: the registered encoder of pictures; None where the shards tell all scores themselves.
        clip_text: the registered encoder of captions, of the same CLIP; None where the shards tell the alignment.
        aesthetic: the head on `clip_image`; None where the shards tell the marks.
        similarity: the field of a sample's JSON that tells its alignment, as LAION's do; None to measure it always. A
            score that is told is that of another CLIP, mostly ViT-B/32, whose scores are higher.
        aesthetic_score: the field that tells its aesthetic mark; None to measure it always.
        hash: what makes two pictures duplicates. "bytes": equal files. "perceptual": equal 64-bit pHashes of imagehash,
            as a photograph and its smaller or compressed copies mostly have; it sees neither colour nor fine detail.
        batch_size: pictures that go through CLIP together.

    Raises:
        ValueError: a part is missing that another needs, or `batch_size` is not positive.
    """

    clip_image: Part | None = None
    clip_text: Part | None = None
    aesthetic: Head | None = None
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
    """CLIP at work: the alignment of pictures with their captions, and their aesthetic marks.

    Args:
        measuring: which parts to load.
        device: where they stand.

    Raises:
        OSError: a part is not to be had.
        ValueError: it is none of ours, the two encoders or the head are not of one CLIP.
    """

    def __init__(self, measuring: Measuring, device: str = "cpu") -> None:
        self.measuring, self.device = measuring, device
        self.image = _built("clip_image", measuring.clip_image, "image", device)
        self.text = _built("clip_text", measuring.clip_text, "text", device)
        self.head: nn.Sequential | None = None
        if measuring.aesthetic is not None:
            self.head = load_head(measuring.aesthetic.weights, measuring.aesthetic.revision).to(device)
        self._check()

    def claim(self) -> dict[str, Any]:
        """What measures depend on, plain JSON."""
        told = {name: value for name, value in asdict(self.measuring).items() if name != "batch_size"}
        parts = (
            ("clip_image", self.measuring.clip_image, self.image),
            ("clip_text", self.measuring.clip_text, self.text),
        )
        for name, part, encoder in parts:
            if part is not None and encoder is not None:
                told[name] = identity(part, encoder)
        if head := self.measuring.aesthetic:
            told["aesthetic"] = {"sha256": sha256(find_head(head.weights, head.revision))}
        return told

    def prepare(self, image: Image.Image) -> UInt8[Tensor, "3 s s"] | None:
        """What CLIP wants of an RGB picture: the centre square at its own size. None where it is not asked."""
        if self.image is None:
            return None
        return torch.from_numpy(np.array(square(image, self.image.size))).permute(2, 0, 1)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b 3 s s"], captions: Sequence[str]) -> list[Scores]:
        """Alignment (cosine) and aesthetic mark of each, None for what is not measured.

        Args:
            images: as prepared.
            captions: of the pictures; without one there is no alignment.
        """
        assert self.image is not None
        embedded = self.image(images.to(self.device) / 127.5 - 1).tokens[:, 0].float()
        marks: list[float | None] = [None] * len(images) if self.head is None else self.head(embedded)[:, 0].tolist()
        alignments: list[float | None] = [None] * len(images)
        rows = [row for row, caption in enumerate(captions) if self.text and caption.strip()]
        if rows:
            texts = self._texts([captions[row] for row in rows])
            for row, cosine in zip(rows, (texts * embedded[rows]).sum(1).tolist(), strict=True):
                alignments[row] = cosine
        return list(zip(alignments, marks, strict=True))

    def _texts(self, captions: Sequence[str]) -> Tensor:
        assert self.text is not None
        pooled = self.text(captions).pooled
        assert pooled is not None
        return pooled.float()

    def _check(self) -> None:
        if self.image is None:
            return
        if self.text is not None and self.text.pooled_width != self.image.width:
            raise ValueError(
                f"clip_text has embeddings of width {self.text.pooled_width}, clip_image of {self.image.width}: they "
                "are not of one CLIP"
            )
        if self.head is not None and head_width(self.head) != self.image.width:
            raise ValueError(
                f"the aesthetic head reads embeddings of width {head_width(self.head)}, clip_image makes "
                f"{self.image.width}: the public heads are of OpenAI's ViT-L/14"
            )


def _built(name: str, part: Part | None, reads: Literal["text", "image"], device: str) -> Any:
    if part is None:
        return None
    if (declared := encoders.spec(part.name).reads) != reads:
        raise ValueError(f"{name} must be an encoder that reads {reads}s; {part.name!r} reads {declared}s")
    return build({name: part}, device)[name]
