"""CLIP score: 100 times the cosine of an image's and its caption's embedding (Hessel et al., arXiv 2104.08718).

The paper plots the mean over images by OpenCLIP's ViT-g/14 (eDiff-I, section 5). The factor is 100, as in torchmetrics,
and not the 2.5 of Hessel et al.; negative values stay negative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ediffi.io.files import sha256
from ediffi.registry.encoders.clip import pool_text, text_states
from ediffi.registry.encoders.clip_files import PINNED, WEIGHTS, load_clip, load_clip_named

MODEL, PRETRAINED = "ViT-g-14", "laion2b_s12b_b42k"
"""The paper's network; it does not name the weights. Our choice: those that existed when it was written."""


@dataclass(frozen=True)
class ClipScorer:
    """An open_clip model that compares images with captions, in float32, frozen."""

    model: Any
    tokenizer: Any  # open_clip's; it truncates a long caption and keeps the end token
    prepare: Callable[[Image.Image], Tensor]  # resizes, crops and normalises an image [3, s, s], as open_clip does
    width: int  # of the joint embedding space of texts and images
    protocol: Mapping[str, Any]  # "name", "weights" (SHA-256 of their file), "resize" (in words), "library"
    device: torch.device

    def embed_images(self, images: Float32[Tensor, "b 3 s s"]) -> Float32[Tensor, "b p"]:
        """The embeddings of prepared images, not normalised, on the CPU."""
        with torch.inference_mode():
            return self.model.encode_image(images.to(self.device, non_blocking=True)).float().cpu()

    def embed_captions(self, captions: Sequence[str]) -> Float32[Tensor, "b p"]:
        """The embeddings of captions, of length 1, on the CPU."""
        # In a causal tower the end token does not attend to the positions after it. These are left out, which takes a
        # fifth of the time on captions of COCO's length. Other towers get all positions.
        with torch.inference_mode():
            ids = self.tokenizer(list(captions)).to(self.device)
            end = _end_positions(self.model, ids)
            if end is None:
                return self.model.encode_text(ids, normalize=True).float().cpu()
            mask = torch.arange(int(end.max()) + 1, device=ids.device) <= end.unsqueeze(1)
            return pool_text(self.model, text_states(self.model, ids[:, : mask.shape[1]]), mask).float().cpu()

    def scores(self, embeddings: Float32[Tensor, "b p"], captions: Sequence[str]) -> Float32[Tensor, " b"]:
        """100 times the cosine of each image's embedding, of any length, and its caption's."""
        if len(embeddings) != len(captions):
            raise ValueError(f"there are {len(captions)} captions for {len(embeddings)} images")
        return 100 * (functional.normalize(embeddings, dim=1) * self.embed_captions(captions)).sum(1)


def load_scorer(
    name: str = MODEL,
    pretrained: str = PRETRAINED,
    path: str | None = None,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    option: str = "path",
) -> ClipScorer:
    """The CLIP that scores: open_clip's network `name` with its weights `pretrained`.

    `path` is a folder with open_clip_config.json and open_clip_model.safetensors, which replaces name and tag; or a
    folder or Hub repository with the weights only; `option` is what takes it, in messages. FileNotFoundError: no
    weights; ValueError: no such tag, or a broken file.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    folder = Path(path) if path is not None and (Path(path) / "open_clip_config.json").is_file() else None
    loaded = load_clip(folder) if folder else load_clip_named(name, pretrained, path, revision, option)
    model: Any = loaded[0]
    settings = PreprocessCfg(**model.visual.preprocess_cfg)
    protocol = {
        "name": folder.resolve().name if folder else f"{name}, {pretrained}",
        "weights": sha256(_weights(name, pretrained, path, revision)),
        "resize": f"{settings.size}, {settings.interpolation}, {settings.resize_mode}, antialiased by Pillow",
        "library": f"open_clip_torch {open_clip.__version__}",
    }
    place, prepare = torch.device(device), image_transform_v2(settings, is_train=False)
    model = model.float().to(place)
    with torch.inference_mode():
        width = model.encode_image(prepare(Image.new("RGB", (8, 8)))[None].to(place)).shape[1]
    return ClipScorer(model, loaded[1], prepare, width, protocol, place)


def _weights(name: str, pretrained: str, path: str | None, revision: str | None) -> Path:
    """The file that was loaded: in the folder, or in the Hub's cache."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    if path is not None and Path(path).is_dir():
        return Path(path) / WEIGHTS
    repository = path or open_clip.get_pretrained_cfg(name, pretrained)["hf_hub"].rstrip("/")
    found = try_to_load_from_cache(repository, WEIGHTS, revision=revision or PINNED.get(repository))
    if not isinstance(found, str):
        raise FileNotFoundError(f"the Hub's cache has no {WEIGHTS} of {repository}")
    return Path(found)


def _end_positions(model: Any, ids: Tensor) -> Tensor | None:
    """The position that open_clip pools of each text [b], if the tower is a `CLIP`'s causal one; otherwise None."""
    import open_clip

    if type(model) is not open_clip.CLIP or model.attn_mask is None:
        return None
    if model.text_pool_type == "argmax":  # of the ids: the end token has the highest id
        return ids.argmax(1)
    if model.text_pool_type == "eos" and model.text_eos_id is not None:
        return (ids == model.text_eos_id).int().argmax(1)
    return None
