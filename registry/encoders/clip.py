"""CLIP as two encoders, of texts and of images (eDiff-I, section 4.2; Radford et al., arXiv 2103.00020).

Both take an open_clip model, which they may share. Shapes: `b` samples, `n` tokens, `d` width of the text tower, `p`
width of the space that texts and images share.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ediffi.registry.encoders.clip_files import CONFIG, is_local, load_clip
from ediffi.registry.encoders.folder import check_folder, read_json
from ediffi.registry.encoders.spans import Offsets, covering, decode_tokens, first_split, safe_split
from ediffi.registry.encoders.spec import EncoderSizes, Frozen, on_meta, text_list
from ediffi.registry.types import Embedding

__all__ = ["ClipImageEncoder", "ClipTextEncoder", "load_clip", "pool_text", "text_states"]


class ClipTextEncoder(Frozen):
    """The text tower of a CLIP, frozen.

    Our choices, where the paper is silent: tokens are the last hidden states after the final layer norm (not the
    penultimate ones), and the pooled vector is the projected end token, scaled to length 1 as in the contrastive loss,
    so that texts and images have one scale.

    Args:
        model: an open_clip `CLIP` (or `CustomTextCLIP`) whose text tower is causal; ValueError for another.
        tokenizer: its open_clip tokenizer: texts -> ids [b, context length], end token kept when a text is truncated.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__(model)
        self.tokenizer = tokenizer
        # open_clip's own byte-pair encoding (`SimpleTokenizer`), or a wrapped tokenizer of transformers
        self.own = hasattr(tokenizer, "byte_decoder")
        self.end_token = int(tokenizer.eot_token_id if self.own else tokenizer.tokenizer.eos_token_id)
        self.begin = self.tokenize([""])[0].shape[1] - 1  # 1 if the tokenizer has a begin token
        tower = _text_tower(model)
        self.width = int(tower.ln_final.weight.shape[0])
        self.max_tokens = int(tower.positional_embedding.shape[0])
        self.pooled_width: int | None = _project(model, torch.zeros(1, self.width)).shape[-1]

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Token ids and mask, padded to the longest of `texts`; the mask is True up to and including the end token."""
        ids = self.tokenizer(text_list(texts))
        end = (ids == self.end_token).int().argmax(1)
        mask = torch.arange(ids.shape[1]) <= end.unsqueeze(1)
        longest = int(end.max()) + 1
        return ids[:, :longest], mask[:, :longest]

    @property
    def unknown_token(self) -> int | None:
        """What it reads for anything that is not in its vocabulary; None for CLIP's own, which has bytes."""
        token = None if self.own else self.tokenizer.tokenizer.unk_token_id
        return None if token == self.end_token else token

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions, in `tokenize([text])`, of the tokens that cover characters [start, end) of a text.

        Special tokens cover nothing; the range ends where the text is truncated. What the tokenizer's cleaning replaces
        as a whole ("&amp;") is covered as a whole.
        """
        if start >= end:
            return range(0, 0)
        low, high = safe_split(text, start, -1, self._length), safe_split(text, end, 1, self._length)
        offsets = [(0, 0)] * self.begin + self._offsets(text)[: self._seen(text)]
        return covering(offsets, self._length(text[:low]), self._length(text[:high]))

    def token_strings(self, text: str) -> list[str]:
        """Each token of `tokenize([text])` as readable text; half a character is the replacement character."""
        ids = self.tokenize([text])[0][0].tolist()
        if not self.own:
            return decode_tokens(self.tokenizer.tokenizer, ids)
        strings = []
        for token in ids:
            piece = self.tokenizer.decoder[token].removesuffix("</w>")
            special = token in self.tokenizer.all_special_ids
            letters = piece if special else bytes(map(self.tokenizer.byte_decoder.get, piece)).decode(errors="replace")
            strings.append(letters)
        return strings

    def truncated_text(self, text: str) -> str:
        """The end of a too long text, which the encoder does not read; "" if it reads all."""
        offsets, seen = self._offsets(text), self._seen(text)
        return text[first_split(text, offsets[seen][0], self._length) :].strip() if len(offsets) > seen else ""

    # The tokenizers clean a text before they split it, and do not say where in the text a token comes from. But of the
    # cleaned text they drop only white space. So lengths are measured in cleaned text without white space: in bytes for
    # open_clip's own tokenizer, in characters for those of transformers.

    def _length(self, part: str) -> int:
        solid = "".join(self.tokenizer.clean_fn(part).split())
        return len(solid.encode()) if self.own else len(solid)

    def _offsets(self, text: str) -> Offsets:
        """[start, end) of each token of a whole text, not truncated, without begin and end token."""
        tokenizer = self.tokenizer
        if self.own:
            widths = (len(tokenizer.decoder[token].removesuffix("</w>")) for token in tokenizer.encode(text))
            return list(pairwise(accumulate(widths, initial=0)))
        cleaned = tokenizer.clean_fn(text)
        encoded = tokenizer.tokenizer(cleaned, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        solid = list(accumulate((not character.isspace() for character in cleaned), initial=0))
        return [(solid[start], solid[end]) for start, end in encoded["offset_mapping"]]

    def _seen(self, text: str) -> int:
        """Tokens of a text that are read, without the begin and the end token."""
        return self.tokenize([text])[0].shape[1] - self.begin - 1

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Embedding:
        """Encode texts: tokens [b, n, d], zero where the mask is False, and pooled [b, p] of length 1."""
        given, real = self.tokenize(texts)
        ids, mask = given.to(self.device), real.to(self.device)
        states = text_states(self.model, ids)
        tokens, pooled = states * mask.unsqueeze(-1).to(states.dtype), pool_text(self.model, states, mask)
        return Embedding(tokens, mask, pooled, all_tokens=bool(real.all()))


class ClipImageEncoder(Frozen):
    """The image tower of an open_clip `CLIP`, frozen: one vector an image, its only token and its pooled vector.

    Our choice: the vector has length 1, as the pooled vector of `ClipTextEncoder`.
    """

    max_tokens = 1
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        settings = model.visual.preprocess_cfg
        size = settings["size"]
        self.size = int(size if isinstance(size, int) else size[0])  # the side of the square images of the tower
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        self.width = int(model.visual.output_dim)
        self.pooled_width: int | None = self.width

    def prepare(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Images in [-1, 1] for the tower: resized, cropped to the central square and normalised.

        The shorter side is resized to `size`, bicubic and antialiased, as in CLIP's own preprocessing.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images [b, 3, h, w] in [-1, 1], not a tensor of shape {list(images.shape)}")
        height, width = images.shape[2:]
        scale = self.size / min(height, width)
        shape = max(self.size, int(height * scale)), max(self.size, int(width * scale))
        images = images.to(self.mean) / 2 + 0.5
        if shape != (height, width):
            images = functional.interpolate(images, shape, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        return (images[..., top : top + self.size, left : left + self.size] - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Embedding:
        """Encode images [b, 3, h, w] in [-1, 1] of any size: tokens [b, 1, p], mask True, pooled [b, p]."""
        features = self.model.encode_image(self.prepare(images.to(self.device)).to(self.dtype), normalize=True)
        real = torch.ones_like(features[:, :1], dtype=torch.bool)
        return Embedding(features[:, None], real, features, all_tokens=True)


def clip_sizes(reads: Literal["text", "image"], path: str | None = None, **_: object) -> EncoderSizes:
    """Sizes of one tower of a CLIP with its projection; the scale of the logits belongs to neither tower.

    The sizes of ViT-L-14, or of the open_clip_config.json in `path` if that is a local folder; FileNotFoundError if it
    is missing, ValueError if it is broken.
    """
    import open_clip

    settings: Any = open_clip.get_model_config("ViT-L-14")
    if path is not None and is_local(path):
        check_folder(Path(path), [CONFIG], "a CLIP")
        settings = read_json(Path(path) / CONFIG).get("model_cfg")
    settings = dict(settings or {})
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    model = on_meta(path or "ViT-L-14", lambda: kind(**settings))
    parameters = sum(
        parameter.numel()
        for key, parameter in model.named_parameters()
        if key.startswith("visual.") == (reads == "image") and not key.startswith("logit_")
    )
    if reads == "image":
        return EncoderSizes(parameters, int(model.visual.output_dim), int(model.visual.output_dim))
    width = int(_text_tower(model).ln_final.weight.shape[0])
    return EncoderSizes(parameters, width, _project(model, torch.zeros(1, width, device="meta")).shape[-1])


def text_states(model: nn.Module, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Last hidden states of the text tower, after the final layer norm.

    open_clip's own `encode_text` needs all 77 positions; a causal tower gives the same values on the first `n` of them,
    for less work. ValueError if the tower is not causal.
    """
    tower, length = _text_tower(model), ids.shape[1]
    embedded = tower.token_embedding(ids) + tower.positional_embedding[:length]
    dtype = tower.transformer.get_cast_dtype()
    return tower.ln_final(tower.transformer(embedded.to(dtype), attn_mask=tower.attn_mask[:length, :length]))


def pool_text(model: nn.Module, states: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b p"]:
    """The projected state of the end token, the last one where `mask` is True, scaled to length 1."""
    end = states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    return functional.normalize(_project(model, end), dim=-1)


def _text_tower(model: nn.Module) -> Any:
    """The module with the parts of the text tower: the model itself, or `.text` of a `CustomTextCLIP`."""
    tower = getattr(model, "text", model)
    if getattr(tower, "attn_mask", None) is None:
        raise ValueError("the text tower of this CLIP is not causal: its values would depend on the padding")
    return tower


def _project(model: nn.Module, states: Float[Tensor, "b d"]) -> Float[Tensor, "b p"]:
    projection = _text_tower(model).text_projection
    if projection is None:
        return states
    return projection(states) if isinstance(projection, nn.Module) else states.to(projection) @ projection
