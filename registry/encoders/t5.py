"""T5 as a text encoder: one vector a token, no pooled one (eDiff-I, section 4.2; Raffel et al., arXiv 1910.10683).

Shapes: `b` texts, `n` tokens of the longest of them (at most `max_tokens`), `d` width of the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from registry.encoders.folder import HUB_ID, WANTED_TOKENIZER, check_folder
from registry.encoders.spans import covering, without_space
from registry.types import Embedding

PAPER_TOKENS = 113
"""How many T5 tokens eDiff-I looks at (section 4.2)."""


class T5TextEncoder(nn.Module):
    """The encoder half of a T5, frozen.

    Args:
        model: a `transformers.T5EncoderModel`.
        tokenizer: its tokenizer; must append the end token and know how to pad.
        max_tokens: longer texts are cut to this many tokens, the end token included.

    Attributes:
        width: width of a token.
        pooled_width: None; eDiff-I uses no pooled T5 vector.

    Raises:
        ValueError: `max_tokens` is below 2 (a word and the end token).
    """

    pooled_width: int | None = None

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int = PAPER_TOKENS) -> None:
        super().__init__()
        if max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2 (a word and the end token), not {max_tokens}")
        self.model: Any = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.width = int(model.config.d_model)
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        max_tokens: int = PAPER_TOKENS,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "T5TextEncoder":
        """Load a folder, or a model of the Hub, through transformers' own loaders.

        Args:
            path_or_id: a folder (a `Path`, or a string that is one), or "organisation/name" of the Hub.
            max_tokens: longer texts are cut.
            revision: branch, tag or commit, for the Hub.
            dtype: precision to compute in; None means float32, whatever the file is stored in.

        Raises:
            FileNotFoundError: the folder or one of its files is missing, or the Hub does not have or does not give it.
            ValueError: a file of the folder is broken.
        """
        from transformers import AutoTokenizer, T5EncoderModel

        source = str(path_or_id)
        local = isinstance(path_or_id, Path) or Path(source).is_dir() or not HUB_ID.fullmatch(source)
        if local:
            check_folder(Path(source), ("config.json", "model.safetensors", *WANTED_TOKENIZER), "a T5 encoder")
        shared: dict[str, Any] = {"revision": revision, "local_files_only": local, "trust_remote_code": False}
        try:
            with _no_bars(local):
                tokenizer = AutoTokenizer.from_pretrained(source, **shared)
                model = T5EncoderModel.from_pretrained(
                    source, dtype=dtype or torch.float32, use_safetensors=True, **shared
                )
        except OSError as error:
            wanted = ", ".join(("config.json", "model.safetensors (or its shards with their index)", *WANTED_TOKENIZER))
            at = f" at revision {revision}" if revision else ""
            raise FileNotFoundError(
                f"could not load the T5 encoder {source!r}{at}: download it where there is a network, put {wanted} in "
                "a folder and give that as path; weights that are published as .bin only have to be saved as safetensors "
                f"first (save_pretrained), since nothing is unpickled here. transformers says: {error}"
            ) from error
        return cls(model, tokenizer, max_tokens)

    def train(self, mode: bool = True) -> "T5TextEncoder":
        """Stays in evaluation mode whatever is asked: the encoder is frozen."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Token ids and mask, padded to the longest of `texts`; a text that is too long is cut before its end token.

        Raises:
            ValueError: no texts, or one string instead of a list of them.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"expected a list of at least one text, not {texts!r}")
        encoded = self.tokenizer(
            list(texts), padding="longest", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return encoded["input_ids"], encoded["attention_mask"].bool()

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions, in what `tokenize([text])` gives, of the tokens that cover characters [start, end) of a text.

        Special tokens cover nothing; where the text is cut, so is the range.
        """
        encoded = self.tokenizer(text, truncation=True, max_length=self.max_tokens, return_offsets_mapping=True)
        return covering(without_space(text, encoded["offset_mapping"]), start, end)

    def pieces(self, text: str) -> list[str]:
        """What each token of `tokenize([text])` reads, for people."""
        ids = self.tokenize([text])[0][0].tolist()
        return [piece.replace("▁", "") or "▁" for piece in self.tokenizer.convert_ids_to_tokens(ids)]

    def cut(self, text: str) -> str:
        """The end of a text that is too long, which the encoder does not see; empty if it sees all."""
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        kept = self.max_tokens - 1  # and the end token
        return text[offsets[kept][0] :].strip() if len(offsets) > kept else ""

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in."""
        return next(self.model.parameters()).dtype

    def unknown_words(self, text: str) -> list[str]:
        """What of the text the vocabulary does not hold, in order, without repeats; the net reads `<unk>` for each."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return list(
            dict.fromkeys(text[start:end] for token, (start, end) in spans if token == self.tokenizer.unk_token_id)
        )

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Embedding:
        """Encode texts: tokens [b, n, d], zero where the mask is False, so that no value depends on batch neighbours.

        Raises:
            ValueError: no texts, or one string instead of a list of them.
        """
        device = next(self.model.parameters()).device
        ids, mask = (tensor.to(device) for tensor in self.tokenize(texts))
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return Embedding(states * mask.unsqueeze(-1).to(states.dtype), mask)


@contextmanager
def _no_bars(silent: bool) -> Iterator[None]:
    """If `silent`, no progress bar of transformers' own for what takes milliseconds."""
    from transformers.utils import logging

    if not silent or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
