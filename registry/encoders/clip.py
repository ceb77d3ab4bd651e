"""CLIP as two encoders, of texts and of pictures (eDiff-I, section 4.2; Radford et al., arXiv 2103.00020).

Both are handed one open_clip model, which may be shared. Shapes: `b` samples, `n` tokens, `d` width of the text tower,
`p` width of the space that texts and pictures share.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from registry.encoders.folder import HUB_ID, WANTED_TOKENIZER, check_folder, read_json
from registry.encoders.spans import Offsets, covering
from registry.types import Embedding


class ClipTextEncoder(nn.Module):
    """The text tower of a CLIP, frozen.

    Our choices, where the paper is silent: tokens are the last hidden states after the final layer norm (not the
    penultimate ones), and the pooled vector is the projected end token, scaled to length 1 as the contrastive loss saw
    it, so that texts and pictures have one scale.

    Args:
        model: an open_clip `CLIP` (or `CustomTextCLIP`) whose text tower is causal.
        tokenizer: its open_clip tokenizer: texts -> ids [b, context length], end token kept when a text is cut.

    Attributes:
        width: width of a token.
        pooled_width: width of the space shared with pictures.

    Raises:
        ValueError: the text tower is not causal: its values would depend on the padding.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.end_token = _end_token(tokenizer)
        tower = _text_tower(model)
        self.width = int(tower.ln_final.weight.shape[0])
        self.pooled_width: int | None = _project(model, torch.zeros(1, self.width)).shape[-1]
        self.eval()

    def train(self, mode: bool = True) -> "ClipTextEncoder":
        """Stays in evaluation mode whatever is asked: the encoder is frozen."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Token ids and mask, padded to the longest of `texts`; the mask is True up to and including the end token.

        Raises:
            ValueError: no texts, or one string instead of a list of them.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"expected a list of at least one text, not {texts!r}")
        ids = self.tokenizer(list(texts))
        end = (ids == self.end_token).int().argmax(1)
        mask = torch.arange(ids.shape[1]) <= end.unsqueeze(1)
        longest = int(end.max()) + 1
        return ids[:, :longest], mask[:, :longest]

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions, in what `tokenize([text])` gives, of the tokens that cover characters [start, end) of a text.

        Special tokens cover nothing; where the text is cut, so is the range. The tokenizer cleans a text before it cuts
        it into tokens, which drops nothing but white space: what comes before a character is as long, white space left
        out, in the cleaned text as in the tokens.
        """
        offsets = self._offsets(self.tokenize([text])[0][0].tolist(), text)
        return covering(offsets, self._length(text[:start]), self._length(text[:end]))

    def pieces(self, text: str) -> list[str]:
        """What each token of `tokenize([text])` reads, for people."""
        ids = self.tokenize([text])[0][0].tolist()
        if not self._is_bpe:
            return [str(piece) for piece in self.tokenizer.tokenizer.convert_ids_to_tokens(ids)]
        return [_readable(self.tokenizer, token) for token in ids]

    def cut(self, text: str) -> str:
        """The end of a text that is too long, cleaned, which the encoder does not see; empty if it sees all."""
        kept = self.tokenizer.context_length - 2  # and the begin and the end token
        if self._is_bpe:
            tokens = self.tokenizer.encode(text)
            return str(self.tokenizer.decode(tokens[kept:])).strip()
        cleaned = self.tokenizer.clean_fn(text)
        encoded = self.tokenizer.tokenizer(cleaned, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        return str(cleaned[offsets[kept][0] :]) if len(offsets) > kept else ""

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in."""
        return next(self.model.parameters()).dtype

    @property
    def _is_bpe(self) -> bool:
        """Whether the tokenizer is open_clip's own, of bytes, and not one of transformers'."""
        return hasattr(self.tokenizer, "byte_decoder")

    def _length(self, part: str) -> int:
        """How long a part of a text is in tokens' measure: bytes or characters, white space left out."""
        solid = "".join(self.tokenizer.clean_fn(part).split())
        return len(solid.encode()) if self._is_bpe else len(solid)

    def _offsets(self, ids: list[int], text: str) -> Offsets:
        """What each token covers, in that measure."""
        if not self._is_bpe:
            cleaned = self.tokenizer.clean_fn(text)
            encoded = self.tokenizer.tokenizer(
                cleaned, truncation=True, max_length=self.tokenizer.context_length, return_offsets_mapping=True
            )
            solid = list(accumulate((not character.isspace() for character in cleaned), initial=0))
            return [(solid[start], solid[end]) for start, end in encoded["offset_mapping"]]
        last = ids.index(self.end_token)
        widths = [len(self.tokenizer.decoder[t].removesuffix("</w>")) if 0 < k < last else 0 for k, t in enumerate(ids)]
        return [(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Embedding:
        """Encode texts: tokens [b, n, d], zero where the mask is False, and pooled [b, p] of length 1.

        Raises:
            ValueError: no texts, or one string instead of a list of them.
        """
        device = next(self.model.parameters()).device
        ids, mask = (tensor.to(device) for tensor in self.tokenize(texts))
        states = text_states(self.model, ids)
        pooled = pool_text(self.model, states, mask)
        return Embedding(states * mask.unsqueeze(-1).to(states.dtype), mask, pooled)


class ClipImageEncoder(nn.Module):
    """The picture tower of a CLIP, frozen: one vector a picture, both its only token and its pooled vector.

    Our choice: the vector has length 1, as `ClipTextEncoder`'s pooled vector has.

    Args:
        model: an open_clip `CLIP`.
        size: side of the square pictures that the tower takes.
        mean: what the tower expects to be taken from each channel of a picture in [0, 1].
        std: what it expects the rest to be divided by.

    Attributes:
        width: width of the token, that of the space shared with texts.
        pooled_width: the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False)
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.width = int(model.visual.output_dim)
        self.pooled_width: int | None = self.width
        self.eval()

    @classmethod
    def of(cls, model: Any) -> "ClipImageEncoder":
        """The encoder for a model that open_clip has loaded: size, mean and std are the model's own."""
        settings = model.visual.preprocess_cfg
        size = settings["size"]
        return cls(model, size if isinstance(size, int) else size[0], settings["mean"], settings["std"])

    def train(self, mode: bool = True) -> "ClipImageEncoder":
        """Stays in evaluation mode whatever is asked: the encoder is frozen."""
        return super().train(False)

    def prepare(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Pictures in [-1, 1] as the tower wants them: resized, cut to the central square and normalised.

        The shortest side is resized to `size`, bicubic and antialiased, as CLIP's own preparation does with a file.

        Raises:
            ValueError: not a batch of pictures with three channels.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected pictures [b, 3, h, w] in [-1, 1], not a tensor of shape {list(images.shape)}")
        height, width = images.shape[2:]
        scale = self.size / min(height, width)
        shape = max(self.size, int(height * scale)), max(self.size, int(width * scale))
        pictures = images.to(self.mean) / 2 + 0.5
        if shape != (height, width):
            pictures = functional.interpolate(pictures, shape, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = round((shape[0] - self.size) / 2), round((shape[1] - self.size) / 2)
        return (pictures[..., top : top + self.size, left : left + self.size] - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Embedding:
        """Encode pictures [b, 3, h, w] in [-1, 1] of any size: tokens [b, 1, p], mask True, pooled [b, p].

        Raises:
            ValueError: not a batch of pictures with three channels.
        """
        weight = next(self.model.visual.parameters())
        features = self.model.encode_image(self.prepare(images.to(weight.device)).to(weight.dtype), normalize=True)
        mask = torch.ones(len(features), 1, dtype=torch.bool, device=features.device)
        return Embedding(features.unsqueeze(1), mask, features)


def _readable(tokenizer: Any, token: int) -> str:
    """A token of open_clip's own tokenizer as text; half a character is shown as the replacement mark."""
    piece = tokenizer.decoder[token].removesuffix("</w>")
    if token in tokenizer.all_special_ids:
        return str(piece)
    return bytes(tokenizer.byte_decoder[character] for character in piece).decode("utf-8", errors="replace")


def text_states(model: nn.Module, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Last hidden states of the text tower, after the final layer norm.

    open_clip's own `encode_text` wants all 77 positions; a causal tower gives the same values on the first `n` of them,
    for less work.

    Raises:
        ValueError: the tower is not causal.
    """
    tower = _text_tower(model)
    length = ids.shape[1]
    embedded = tower.token_embedding(ids) + tower.positional_embedding[:length]
    dtype = tower.transformer.get_cast_dtype()
    return tower.ln_final(tower.transformer(embedded.to(dtype), attn_mask=tower.attn_mask[:length, :length]))


def pool_text(model: nn.Module, states: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b p"]:
    """The projected state of the end token, the last one where `mask` is True, scaled to length 1."""
    end = states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    return functional.normalize(_project(model, end), dim=-1)


def load_clip(folder: str | Path) -> tuple[nn.Module, Any]:
    """The open_clip model and tokenizer of a local folder; loaded once, shared by those who ask for the same folder.

    The folder holds open_clip_config.json (`model_cfg`, `preprocess_cfg`), open_clip_model.safetensors and, if the
    config names an `hf_tokenizer_name`, the tokenizer's own files. Nothing is fetched from a network and no code is
    loaded.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file of the folder is broken, or its text tower is one that would have to be downloaded.
    """
    path = Path(folder)
    wanted = ["open_clip_config.json", "open_clip_model.safetensors"]
    check_folder(path, wanted, "a CLIP")
    text = _text_settings(path / wanted[0])
    own_tokenizer = bool(text.get("hf_tokenizer_name"))
    check_folder(path, [*wanted, *WANTED_TOKENIZER] if own_tokenizer else wanted, "a CLIP")
    written = (path / wanted[1]).stat()
    return _load_folder(str(path.resolve()), own_tokenizer, (written.st_mtime_ns, written.st_ino))


def load_clip_pinned(path_or_id: str, revision: str | None) -> tuple[nn.Module, Any]:
    """The open_clip model and tokenizer of a local folder, or of a repository of the Hub at one revision.

    Only the config, the safetensors and the tokenizer's JSON are fetched; the rest is as with `load_clip`.

    Raises:
        FileNotFoundError: the repository is neither cached nor to be had, or a file is missing.
        ValueError: a file is broken.
    """
    if Path(path_or_id).is_dir() or not HUB_ID.fullmatch(path_or_id):
        return load_clip(path_or_id)
    from huggingface_hub import snapshot_download

    wanted = ["open_clip_config.json", "open_clip_model.safetensors", *WANTED_TOKENIZER]
    try:
        folder = snapshot_download(path_or_id, revision=revision, allow_patterns=wanted)
    except OSError as error:
        raise FileNotFoundError(
            f"could not load the CLIP {path_or_id!r} at revision {revision}: download it where there is a network, put "
            f"{', '.join(wanted[:2])} in a folder and give that as path. huggingface_hub says: {error}"
        ) from error
    return load_clip(folder)


def load_clip_named(name: str, pretrained: str) -> tuple[nn.Module, Any]:
    """A model that open_clip knows by name and tag ("ViT-L-14", "openai"), from its cache or the network.

    Raises:
        FileNotFoundError: the weights are neither cached nor to be had.
        ValueError: open_clip knows no such name or tag.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags:
        raise ValueError(f"open_clip has no weights {pretrained!r} of {name!r}; it has {', '.join(tags) or 'none'}")
    return _load_named(name, pretrained)


@lru_cache(maxsize=1)
def _load_folder(folder: str, own_tokenizer: bool, written: tuple[int, int]) -> tuple[nn.Module, Any]:
    """Load; `written` (when the weights were written, and their inode) is there to tell a retrained folder apart."""
    import open_clip

    source = f"local-dir:{folder}"
    model, _, _ = open_clip.create_model_and_transforms(source)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False} if own_tokenizer else {}
    return model.eval().requires_grad_(False), open_clip.get_tokenizer(source, **safe)


@lru_cache(maxsize=1)
def _load_named(name: str, pretrained: str) -> tuple[nn.Module, Any]:
    import open_clip

    try:
        model, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"could not get the weights {pretrained!r} of CLIP {name!r}: without a network, fill the cache "
            f"beforehand, or give a local folder as path. open_clip says: {error}"
        ) from error
    return model.eval().requires_grad_(False), open_clip.get_tokenizer(name)


def _text_settings(config: Path) -> dict[str, Any]:
    model = read_json(config).get("model_cfg")
    text = model.get("text_cfg") if isinstance(model, dict) else None
    if not isinstance(text, dict):
        raise ValueError(
            f"{str(config)!r} has no model_cfg with a text_cfg: it is not the config of an open_clip model"
        )
    if text.get("hf_model_name"):
        raise ValueError(
            f"{str(config)!r} asks for the text tower {text['hf_model_name']!r}, which is not in the folder"
        )
    return text


def _text_tower(model: nn.Module) -> Any:
    """The module that holds the text tower's parts: the model itself, or `.text` of a `CustomTextCLIP`."""
    tower = getattr(model, "text", model)
    if getattr(tower, "attn_mask", None) is None:
        raise ValueError("the text tower of this CLIP is not causal: its values would depend on the padding")
    return tower


def _project(model: nn.Module, states: Float[Tensor, "b d"]) -> Float[Tensor, "b p"]:
    projection = _text_tower(model).text_projection
    if projection is None:
        return states
    return projection(states) if isinstance(projection, nn.Module) else states.to(projection) @ projection


def _end_token(tokenizer: Any) -> int:
    """Id of the end token, of open_clip's own tokenizer or of one that it took from transformers."""
    own = getattr(tokenizer, "eot_token_id", None)
    return int(tokenizer.tokenizer.eos_token_id if own is None else own)
