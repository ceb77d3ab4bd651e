"""Scores from CLIP: how well image and caption fit, and how pleasing an image is.

Aesthetic scores, from about 1 to 10, are predicted by a small pretrained head on the CLIP embedding of an image. Two
heads are public. Both read embeddings of OpenAI's CLIP ViT-L/14, normalized to length 1: LAION's linear head
(github.com/LAION-AI/aesthetic-predictor), and the one of LAION-Aesthetics v2: five linear layers without activations
(github.com/christophschuhmann/improved-aesthetic-predictor, "linearMSE").
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ediffi.data.embedding.identity import build, identity
from ediffi.hub.config import Part
from ediffi.io.files import sha256
from ediffi.io.images import color, square
from ediffi.registry import encoders
from ediffi.registry.core import HUB_ID
from ediffi.registry.encoders.folder import from_hub, unavailable

WEIGHTS = "model.safetensors"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
HIDDEN = (1024, 128, 64, 16)
LAYERS = (0, 2, 4, 6, 7)  # indices of the five linear layers; between them was dropout, which does nothing here


@dataclass(frozen=True)
class AestheticHead:
    """An aesthetic head: a `.safetensors` file, or "organisation/name" of the Hub at a branch, tag or commit."""

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
        hash: what makes two samples duplicates. "bytes": equal image files. "perceptual": captions of equal words, and
            equal 64-bit pHashes of imagehash, as a photograph and its smaller or compressed copies mostly have. The
            hash ignores colour and fine detail: drawings that differ in these alone are told apart by their captions.
        batch_size: images that go through CLIP together.
        background: the colour that transparent images are laid on, before CLIP and hashes see them.
    """

    clip_image: Part | None = None
    clip_text: Part | None = None
    aesthetic: AestheticHead | None = None
    similarity: str | None = "similarity"
    aesthetic_score: str | None = "AESTHETIC_SCORE"
    hash: Literal["bytes", "perceptual"] = "bytes"
    batch_size: int = 64
    background: str = "white"

    def __post_init__(self) -> None:
        if self.clip_image is None and (self.clip_text or self.aesthetic):
            missing = "clip_text" if self.clip_text else "aesthetic"
            raise ValueError(f"{missing} needs a clip_image beside it")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")
        color(self.background)


class Scorer:
    """Computes the alignment of images with their captions, and their aesthetic scores. ValueError: an encoder is of
    another kind, or the two encoders or the head are not of one CLIP."""

    def __init__(self, settings: ScoreSettings, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.image = _built("clip_image", settings.clip_image, "image", device)
        self.text = _built("clip_text", settings.clip_text, "text", device)
        head = settings.aesthetic
        self.head = None if head is None else load_head(head.weights, head.revision).to(device)
        if self.text is not None and self.text.pooled_width != self.image.width:
            widths = f"clip_text has embeddings of width {self.text.pooled_width}, clip_image of {self.image.width}"
            raise ValueError(f"{widths}: they are not of one CLIP")
        if self.head is not None and (width := next(self.head.parameters()).shape[1]) != self.image.width:
            widths = f"the aesthetic head reads embeddings of width {width}, clip_image makes {self.image.width}"
            raise ValueError(f"{widths}: the public heads are of OpenAI's ViT-L/14")

    def claim(self) -> dict[str, Any]:
        """What measures depend on, plain JSON."""
        known = {name: value for name, value in asdict(self.settings).items() if name != "batch_size"}
        if self.settings.hash == "perceptual":
            known["hash"] = "perceptual, and the words of the caption"  # measures of earlier versions lack the words
        for name, encoder in (("clip_image", self.image), ("clip_text", self.text)):
            if encoder is not None:
                known[name] = identity(getattr(self.settings, name), encoder)
        if head := self.settings.aesthetic:
            known["aesthetic"] = {"sha256": sha256(find_head(head.weights, head.revision))}
        return known

    # CLIP was trained on a bicubic resize and a centre crop; other preparation lowers its scores.
    def prepare(self, image: Image.Image) -> UInt8[Tensor, "3 s s"]:
        """The input of CLIP for an RGB image: the centre square at CLIP's size."""
        return torch.from_numpy(np.array(square(image, self.image.size))).permute(2, 0, 1)

    @torch.no_grad()
    def __call__(
        self, images: UInt8[Tensor, "b 3 s s"], captions: Sequence[str]
    ) -> tuple[list[float | None], list[float | None]]:
        """Alignments (cosines) and aesthetic scores of prepared images; None where not computed, as for an empty
        caption."""
        # The one token of a CLIP image encoder is its projected embedding, of length 1: a dot product is a cosine.
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


def load_head(source: str | Path, revision: str | None = None) -> nn.Sequential:
    """The head of a `.safetensors` file, a folder or a Hub repository; it maps embeddings [b, d] to scores [b, 1].
    FileNotFoundError: no such file. ValueError: it is a pickle, broken, or holds another network than the two."""
    path = find_head(source, revision)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from None
    bare = {name.removeprefix("layers."): tensor for name, tensor in tensors.items()}
    prefixes, widths = ([""], [1]) if "weight" in bare else ([f"{layer}." for layer in LAYERS], [*HIDDEN, 1])
    names = {prefix + part: f"{row}.{part}" for row, prefix in enumerate(prefixes) for part in ("weight", "bias")}
    try:
        incoming = bare[f"{prefixes[0]}weight"].shape[-1]
        head = nn.Sequential(*(nn.Linear(*shape) for shape in pairwise([incoming, *widths])))
        head.load_state_dict({names[name]: tensor for name, tensor in bare.items()})
    except (KeyError, IndexError, RuntimeError):
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items())[:4])
        raise ValueError(
            f"{path} holds no aesthetic head: expected weight [1, d] and bias [1], or five layers of "
            f"{', '.join(map(str, HIDDEN))} and 1; found {found or 'nothing'}{', ...' if len(tensors) > 4 else ''}"
        ) from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{path} holds weights that are not finite")
    return head.float().eval().requires_grad_(False)


def find_head(source: str | Path, revision: str | None = None) -> Path:
    """The file with the weights; errors as `load_head`."""
    path = Path(source)
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which may run code and is not read: convert it once, where you trust it, by "
            f"safetensors.torch.save_file(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')"
        )
    if path.is_dir():
        path = path / WEIGHTS
    elif not path.exists() and path.suffix != ".safetensors" and HUB_ID.fullmatch(str(source)):
        try:
            path = from_hub(str(source), revision, [WEIGHTS]) / WEIGHTS
        except OSError as error:
            advice = f"where there is a network, download its {WEIGHTS}, and give the file"
            raise unavailable(f"the aesthetic head {str(source)!r}", revision, error, advice) from error
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected the weights of an aesthetic head, as safetensors")
    return path
