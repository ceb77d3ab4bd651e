"""A text encoder without a vocabulary or weights to download: words as the mean of their letter n-grams.

fastText's subwords (Bojanowski et al., arXiv 1607.04606) over a table that is drawn from a seed and never trained, so
that words with common letters are near each other and no word is unknown. The denoiser learns what they mean.

Shapes: `b` texts, `n` words of the longest of them and its end mark, `d` width of a token.
"""

import re
from collections.abc import Iterator, Sequence
from zlib import crc32

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ediffi.registry.encoders import EncoderSizes, EncoderSpec, declares
from ediffi.registry.encoders.spans import covering
from ediffi.registry.types import Embedding

END = "</s>"
WORD = re.compile(r"\w+|[^\w\s]")
LENGTHS = (3, 4, 5)
"""Of the n-grams; the whole word is one more."""


def _sizes(width: int, buckets: int, **_: int) -> EncoderSizes:
    return EncoderSizes(parameters=buckets * (width // 2), width=width, pooled_width=width // 2)


@declares(EncoderSpec("ngram_text", "text", max_tokens=77, caption_tokens=14, dropout=0.1, sizes=_sizes))
def ngram_text(width: int = 128, buckets: int = 8192, max_tokens: int = 77, seed: int = 0) -> "NgramTextEncoder":
    """Words as the mean of their letter n-grams (fastText, arXiv 1607.04606), untrained; nothing to download.

    Args:
        width: of a token; half of it is the word, half the word before it.
        buckets: rows of the table that n-grams are hashed into.
        max_tokens: longer texts are cut, the end mark included.
        seed: of the table.

    Raises:
        ValueError: a size is too small, or `width` is odd.
    """
    return NgramTextEncoder(width, buckets, max_tokens, seed)


class NgramTextEncoder(nn.Module):
    """A `TextEncoder`: it can tell which words a phrase has, so they can be painted and weighted.

    Args:
        width: see `ngram_text`, as the others.
        buckets: see there.
        max_tokens: see there.
        seed: see there.

    Attributes:
        width: of a token.
        pooled_width: of the vector of a whole text.
    """

    def __init__(self, width: int, buckets: int, max_tokens: int, seed: int) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width must be even and at least 2, got {width}")
        if buckets < 1:
            raise ValueError(f"buckets must be at least 1, got {buckets}")
        if max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2 (a word and the end mark), got {max_tokens}")
        self.width, self.pooled_width, self.buckets, self.max_tokens = width, width // 2, buckets, max_tokens
        table = torch.randn(buckets, width // 2, generator=torch.Generator().manual_seed(seed))
        self.ngrams = nn.EmbeddingBag.from_pretrained(table, freeze=True, mode="mean")
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in."""
        return self.ngrams.weight.dtype

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Embedding:
        """Encode texts: tokens [b, n, d], zero where the mask is False; the pooled vector is the mean over the words.

        Raises:
            ValueError: no texts, or one string instead of a list of them.
        """
        _, mask = self.tokenize(texts)
        words = [self._vectors(self.token_strings(text)) for text in texts]
        tokens = [torch.cat([own, F.pad(own, (0, 0, 1, 0))[:-1]], dim=1) for own in words]
        pooled = [F.normalize(own.mean(0), dim=0) * self.pooled_width**0.5 for own in words]
        return Embedding(pad_sequence(tokens, batch_first=True), mask.to(words[0].device), torch.stack(pooled))

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """A number for each word, and which are real; as long as the embedding's.

        Raises:
            ValueError: no texts, or one string instead of a list of them.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"expected a list of at least one text, not {texts!r}")
        rows = [torch.tensor([crc32(word.encode()) for word in self.token_strings(text)]) for text in texts]
        ids = pad_sequence(rows, batch_first=True, padding_value=-1)
        return ids, ids >= 0

    def token_range(self, text: str, start: int, end: int) -> range:
        """Positions of the words that cover characters [start, end) of a text."""
        return covering(self._spans(text)[: self.max_tokens - 1], start, end)

    def token_strings(self, text: str) -> list[str]:
        """The words that are read, in lower case, and the end mark."""
        return [text[start:end].lower() for start, end in self._spans(text)[: self.max_tokens - 1]] + [END]

    def truncated_text(self, text: str) -> str:
        """The end of a text that is too long; empty if all is read."""
        left = self._spans(text)[self.max_tokens - 1 :]
        return text[left[0][0] :].strip() if left else ""

    def _spans(self, text: str) -> list[tuple[int, int]]:
        return [found.span() for found in WORD.finditer(text)]

    def _vectors(self, words: Sequence[str]) -> Float[Tensor, "n half"]:
        """A vector for each word, of mean square 1."""
        bags = [[crc32(ngram.encode()) % self.buckets for ngram in _ngrams(word)] for word in words]
        starts = [sum(map(len, bags[:index])) for index in range(len(bags))]
        device = self.ngrams.weight.device
        flat = torch.tensor([row for bag in bags for row in bag], device=device)
        means = self.ngrams(flat, torch.tensor(starts, device=device))
        return F.normalize(means, dim=-1) * self.pooled_width**0.5


def _ngrams(word: str) -> Iterator[str]:
    """The word between its ends, and every 3 to 5 letters of that: "<re", "red", "ed>", ..."""
    bounded = f"<{word}>"
    yield bounded
    for length in LENGTHS:
        if length < len(bounded):
            yield from (bounded[first : first + length] for first in range(len(bounded) - length + 1))
