"""The menu of encoders: frozen networks that turn texts or pictures into an `Embedding`.

    from registry import encoders
    encoders.names("clip*")
    encoders.create("t5", path="some/folder")

Every encoder has `width` (of a token) and `pooled_width` (None where there is no pooled vector).
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from registry.core import Registry
from registry.encoders.clip import ClipImageEncoder, ClipTextEncoder, load_clip, load_clip_named, load_clip_pinned
from registry.encoders.t5 import PAPER_TOKENS, T5TextEncoder
from registry.types import Encoder

__all__ = [
    "REGISTRY",
    "ClipImageEncoder",
    "ClipTextEncoder",
    "T5TextEncoder",
    "clip_image",
    "clip_l14_image",
    "clip_l14_text",
    "clip_text",
    "create",
    "describe",
    "names",
    "register",
    "t5",
    "t5_xxl",
]

T5_REVISION = "3db67ab1af984cf10548a73467f0e5bca2aaaeb2"
"""The commit of google/t5-v1_1-xxl that is meant."""
CLIP_L14 = "timm/vit_large_patch14_clip_224.openai"
"""OpenAI's weights of ViT-L/14 as safetensors, with open_clip's config: what open_clip's tag "openai" loads too."""
CLIP_REVISION = "18d0535469bb561bf468d76c1d73aa35156c922b"

REGISTRY: Registry[Encoder] = Registry("encoders")
names, create, describe, register = REGISTRY.names, REGISTRY.create, REGISTRY.describe, REGISTRY.register


@register
def t5(path: str, max_tokens: int = PAPER_TOKENS) -> T5TextEncoder:
    """A T5 encoder from a local folder; computes in float32.

    Args:
        path: folder with config.json, model.safetensors and the tokenizer, as transformers writes them.
        max_tokens: longer texts are cut.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file of the folder is broken.
    """
    return T5TextEncoder.from_pretrained(Path(path), max_tokens)


@register
def t5_xxl(
    path: str = "google/t5-v1_1-xxl",
    max_tokens: int = PAPER_TOKENS,
    revision: str | None = T5_REVISION,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
) -> T5TextEncoder:
    """T5-XXL, the paper's encoder (eDiff-I, section 4.2): 113 tokens of width 4096.

    Args:
        path: "organisation/name" of the Hub, or a local folder. Only safetensors are read: of a repository that has
            none at that revision, such as google's own, save a copy as safetensors and give its folder.
        max_tokens: longer texts are cut.
        revision: branch, tag or commit of the Hub; pinned by default. Not used for a folder.
        dtype: precision to compute in; float16 overflows in T5 and is not offered.

    Raises:
        FileNotFoundError: the model is neither in the Hub's cache nor to be had, or the folder is incomplete.
        ValueError: a file of the folder is broken.
    """
    return T5TextEncoder.from_pretrained(path, max_tokens, revision, getattr(torch, dtype))


@register
def clip_text(path: str) -> ClipTextEncoder:
    """The text tower of a CLIP from a local folder.

    Args:
        path: folder with open_clip_config.json, open_clip_model.safetensors and the tokenizer, as open_clip reads them.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file of the folder is broken.
    """
    return ClipTextEncoder(*load_clip(path))


@register
def clip_image(path: str) -> ClipImageEncoder:
    """The picture tower of a CLIP from a local folder; shares the model with `clip_text` of the same folder.

    Args:
        path: folder with open_clip_config.json, open_clip_model.safetensors and the tokenizer, as open_clip reads them.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file of the folder is broken.
    """
    return ClipImageEncoder.of(load_clip(path)[0])


@register
def clip_l14_text(path: str = CLIP_L14, revision: str | None = CLIP_REVISION, pretrained: str = "") -> ClipTextEncoder:
    """The text tower of CLIP ViT-L/14, the paper's encoder (eDiff-I, section 4.2): 77 tokens of width 768.

    Args:
        path: "organisation/name" of the Hub, or a local folder, with open_clip_config.json and
            open_clip_model.safetensors.
        revision: branch, tag or commit of the Hub; pinned by default. Not used for a folder.
        pretrained: instead, open_clip's own tag of ViT-L-14's weights ("openai", "laion2b_s32b_b82k"); not pinned.

    Raises:
        FileNotFoundError: the weights are neither cached nor to be had, or the folder is incomplete.
        ValueError: a file is broken, or open_clip knows no such tag.
    """
    return ClipTextEncoder(*_clip_l14(path, revision, pretrained))


@register
def clip_l14_image(
    path: str = CLIP_L14, revision: str | None = CLIP_REVISION, pretrained: str = ""
) -> ClipImageEncoder:
    """The picture tower of CLIP ViT-L/14, the paper's encoder (eDiff-I, section 4.2): one token of width 768.

    Shares the model with `clip_l14_text`. Arguments as there.

    Raises:
        FileNotFoundError: the weights are neither cached nor to be had, or the folder is incomplete.
        ValueError: a file is broken, or open_clip knows no such tag.
    """
    return ClipImageEncoder.of(_clip_l14(path, revision, pretrained)[0])


def _clip_l14(path: str, revision: str | None, pretrained: str) -> tuple[nn.Module, Any]:
    return load_clip_named("ViT-L-14", pretrained) if pretrained else load_clip_pinned(path, revision)
