"""T5 as a text encoder: a vector per token, no pooled vector (eDiff-I, section 4.2; Raffel et al., arXiv 1910.10683).

Shapes: `b` texts, `n` tokens of the longest of them (at most `max_tokens`), `d` width of the model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ediffi.registry.core import HUB_ID
from ediffi.registry.encoders.folder import WANTED_TOKENIZER, check_folder, from_hub, read_json, unavailable
from ediffi.registry.encoders.spans import covering, decode_tokens, without_space
from ediffi.registry.encoders.spec import EncoderSizes, Frozen, on_meta, text_list
from ediffi.registry.types import Embedding

PAPER_TOKENS = 113
"""T5 tokens that eDiff-I reads (section 4.2)."""

XXL = "google/t5-v1_1-xxl"
XXL_CONFIG: dict[str, Any] = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "d_kv": 64}
XXL_CONFIG |= {"vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
"""Its published config."""

_WEIGHTS, _INDEX, _SENTENCEPIECE = "model.safetensors", "model.safetensors.index.json", "spiece.model"


class T5TextEncoder(Frozen):
    """The encoder half of a T5, frozen.

    Args:
        model: a `transformers.T5EncoderModel`.
        tokenizer: its tokenizer; must append the end token and know how to pad.
        max_tokens: longer texts are truncated to this many tokens, the end token included; at least 2.
    """

    pooled_width: int | None = None  # eDiff-I uses no pooled T5 vector

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = PAPER_TOKENS) -> None:
        super().__init__(model)
        if max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2 (a word and the end token), not {max_tokens}")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.width = int(model.config.d_model)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        max_tokens: int = PAPER_TOKENS,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "T5TextEncoder":
        """Load a folder, or "organisation/name" of the Hub at `revision`, from safetensors only.

        `dtype` None means float32, in any precision of the file. FileNotFoundError if a file or the Hub's model is
        missing; ValueError if a file is broken.
        """
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils import logging

        source = str(path_or_id)
        local = isinstance(path_or_id, Path) or Path(source).is_dir() or not HUB_ID.fullmatch(source)
        folder = Path(source) if local else _fetch(source, revision)
        check_folder(folder, _wanted(folder), "a T5 encoder")
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        if quiet := local and logging.is_progress_bar_enabled():  # a local folder loads in milliseconds
            logging.disable_progress_bar()
        try:
            model = T5EncoderModel.from_pretrained(folder, dtype=dtype or torch.float32, use_safetensors=True, **safe)
        finally:
            if quiet:
                logging.enable_progress_bar()
        return cls(model, tokenizer, max_tokens)

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Token ids and mask, padded to the longest of `texts`; a too long text is truncated before its end token."""
        fit: dict[str, Any] = {"padding": "longest", "truncation": True, "max_length": self.max_tokens}
        encoded = self.tokenizer(text_list(texts), **fit, return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"].bool()

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions, in `tokenize([text])`, of the tokens that cover characters [start, end) of a text.

        Special tokens and white space cover nothing; the range ends where the text is truncated.
        """
        encoded = self.tokenizer(text, truncation=True, max_length=self.max_tokens, return_offsets_mapping=True)
        pieces = self.tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        return covering(without_space(text, pieces, encoded["offset_mapping"]), start, end)

    def token_strings(self, text: str) -> list[str]:
        """Each token of `tokenize([text])` as readable text."""
        return decode_tokens(self.tokenizer, self.tokenize([text])[0][0].tolist())

    def truncated_text(self, text: str) -> str:
        """The end of a too long text, which the encoder does not read; "" if it reads all."""
        offsets = self._encoded(text)["offset_mapping"]
        kept = self.max_tokens - 1  # and the end token
        return text[offsets[kept][0] :].strip() if len(offsets) > kept else ""

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that are not in the vocabulary, in order, without repeats; T5 reads `<unk>` for each."""
        encoded, unknown = self._encoded(text), self.tokenizer.unk_token_id
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return list(dict.fromkeys(text[start:end] for token, (start, end) in spans if token == unknown))

    def _encoded(self, text: str) -> Any:
        return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Embedding:
        """Encode texts: tokens [b, n, d], zero where the mask is False, so that no value depends on the batch."""
        ids, mask = (tensor.to(self.device) for tensor in self.tokenize(texts))
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return Embedding(states * mask.unsqueeze(-1).to(states.dtype), mask)


def t5_sizes(path: str, **_: object) -> EncoderSizes:
    """Sizes of the encoder half of a T5, from the config of a local folder, or of T5-XXL by its name on the Hub.

    FileNotFoundError if there is no config.json; ValueError if it is broken.
    """
    from transformers import T5Config, T5EncoderModel

    if path == XXL and not Path(path).is_dir():
        config = XXL_CONFIG
    else:
        check_folder(Path(path), ["config.json"], "a T5 encoder")
        config = read_json(Path(path) / "config.json")
    model = on_meta(path, lambda: T5EncoderModel(T5Config(**config)))
    return EncoderSizes(sum(parameter.numel() for parameter in model.parameters()), int(model.config.d_model))


def _wanted(folder: Path) -> list[str]:
    """Files of a T5 folder: weights in one file or in shards, and a tokenizer of transformers or sentencepiece."""
    weights = [_WEIGHTS]
    if (folder / _INDEX).is_file() and not (folder / _WEIGHTS).is_file():
        listed = read_json(folder / _INDEX).get("weight_map")
        shards = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if not shards or not all(name.endswith(".safetensors") for name in shards):
            raise ValueError(f"{str(folder / _INDEX)!r} should list shards of weights, all of them .safetensors files")
        weights = [_INDEX, *shards]
    bare = (folder / _SENTENCEPIECE).is_file() and not (folder / WANTED_TOKENIZER[0]).is_file()
    return ["config.json", *weights, _SENTENCEPIECE if bare else WANTED_TOKENIZER[0], *WANTED_TOKENIZER[1:]]


def _fetch(repository: str, revision: str | None) -> Path:
    """The folder of the Hub's cache with a T5 as safetensors.

    Not by transformers' own download: where the main branch has only a pickle, it asks a bot of the Hub to convert it,
    and loads the bot's proposal.
    """
    files = ["config.json", _INDEX, "model*.safetensors", _SENTENCEPIECE, "special_tokens_map.json", *WANTED_TOKENIZER]
    try:
        folder = from_hub(repository, revision, files)
        check_folder(folder, _wanted(folder), "a T5 encoder")
    except OSError as error:
        advice = (
            "where there is a network, download config.json, tokenizer_config.json, spiece.model and the weights, save "
            "the weights as safetensors on a machine that you trust if they are a pytorch_model.bin, since nothing is "
            "unpickled here (T5EncoderModel.from_pretrained(...).save_pretrained(folder)), put config.json, "
            "model.safetensors, tokenizer_config.json and spiece.model in one folder, and give that folder as path"
        )
        raise unavailable(f"the T5 encoder {repository!r}", revision, error, advice) from error
    return folder
