"""Scorers: how well images fit their captions, as a model of people's preferences, or any function, says.

A scorer is `scorer(images, captions) -> [n]`, a number for each RGB image, more is better. Its factory is registered by
`register`, or by the entry-point group `ediffi.scorers` of any package; a suite names it: `scorers: {pickscore: {}}`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from ediffi.io.files import sha256
from ediffi.registry.core import Registry
from ediffi.registry.encoders.clip_files import is_local
from ediffi.registry.encoders.folder import WANTED_TOKENIZER, check_folder, from_hub, unavailable

Scorer = Callable[[Sequence[Image.Image], Sequence[str]], Any]
"""Takes RGB images and their captions; returns a tensor or a sequence with a number for each."""
scorers: Registry[Scorer] = Registry("scorers")
register = scorers.register

MODEL, PROCESSOR = ("config.json", "model.safetensors"), ("preprocessor_config.json", *WANTED_TOKENIZER)


@dataclass(frozen=True)
class NamedScorer:
    """A scorer with its name, and a protocol of plain JSON values that says all its scores depend on."""

    name: str
    scorer: Scorer
    protocol: Mapping[str, Any]

    def prepare(self, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
        """The image's bytes, unchanged; called in the processes that decode."""
        from torchvision.transforms.functional import pil_to_tensor

        return pil_to_tensor(image)

    def __call__(self, images: UInt8[Tensor, "b 3 h w"], captions: Sequence[str]) -> Float32[Tensor, " b"]:
        """The scores of a batch; ValueError: the scorer raised, or did not return a number for each image."""
        from torchvision.transforms.functional import to_pil_image

        try:
            found = self.scorer([to_pil_image(image) for image in images], list(captions))
            scores = torch.as_tensor(found, dtype=torch.float32).detach().cpu()
        except Exception as error:  # of anybody's code
            raise ValueError(f"the scorer {self.name} failed: {type(error).__name__}: {error}") from error
        if scores.shape != (len(images),):
            got = f"an array of shape {list(scores.shape)}"
            raise ValueError(f"the scorer {self.name} must return {len(images)} numbers, and returned {got}")
        return scores


def load(name: str, arguments: Mapping[str, Any] | None = None, device: str | torch.device = "cpu") -> NamedScorer:
    """Build a registered scorer. UnknownNameError lists near names; ValueError: it takes no such argument."""
    given = dict(arguments or {})
    placed = {"device": str(device)} if "device" in scorers.arguments(name) else {}
    scorer = scorers.create(name, **{**placed, **given})
    own = dict(getattr(scorer, "protocol", {"arguments": given}))
    return NamedScorer(name, scorer, {"name": name, "from": scorers.origin(name), **own})


@dataclass(frozen=True)
class ClipPreference:
    """A CLIP of transformers that was trained on people's choices: the scaled cosine of image and caption."""

    model: Any
    tokenizer: Any
    image_processor: Any
    protocol: Mapping[str, Any]

    def __call__(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Float32[Tensor, " b"]:
        """exp(logit_scale) · cosine of each image and its caption."""
        longest = self.model.config.text_config.max_position_embeddings
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        inputs = {**self.tokenizer(list(captions), **options)}
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        inputs |= {"pixel_values": self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]}
        with torch.inference_mode():
            found = self.model(**{name: part.to(self.model.device) for name, part in inputs.items()})
            return self.model.logit_scale.exp() * (found.image_embeds * found.text_embeds).sum(1)


@register
def pickscore(
    path: str = "yuvalkirstain/PickScore_v1",
    processor: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> ClipPreference:
    """PickScore (Kirstain et al., arXiv 2305.01569), or another CLIP of transformers that was trained on preferences.

    Args:
        path: a folder with config.json and model.safetensors, or a repository of the Hub.
        processor: a folder or repository with the tokenizer and preprocessor_config.json; by default the folder itself,
            or the ViT-H/14 that PickScore was trained from.
        revision: of the model's repository.
        device: where it runs.

    Raises:
        FileNotFoundError: files are missing, and cannot be downloaded.
        ValueError: a file is broken.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    beside = path if is_local(path) else "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    folder, words = _folder(path, revision, MODEL), _folder(processor or beside, None, PROCESSOR)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model, told = CLIPModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **safe)
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{str(folder / MODEL[1])!r} lacks {len(missing)} tensors of a CLIP, such as {missing[0]}")
    protocol = {
        "weights": sha256(folder / MODEL[1]),
        "processor": {name: sha256(words / name) for name in PROCESSOR},
        "library": f"transformers {version('transformers')}",
    }
    placed = model.float().eval().requires_grad_(False).to(device)
    tokenizer = AutoTokenizer.from_pretrained(words, **safe)
    return ClipPreference(placed, tokenizer, CLIPImageProcessor.from_pretrained(words, **safe), protocol)


def _folder(source: str, revision: str | None, files: Sequence[str]) -> Path:
    """A folder with the files: the given one, or that of the Hub's cache."""
    if is_local(source):
        folder = Path(source)
    else:
        try:
            folder = from_hub(source, revision, files)
        except OSError as error:
            advice = f"download {', '.join(files)}, and give their folder as path"
            raise unavailable(f"the scorer {source!r}", revision, error, advice) from error
    check_folder(folder, files, "a scorer")
    return folder
