"""What open_clip's tokenizers make of a text: its own, of bytes (`SimpleTokenizer`), and those of transformers.

Both clean a text before they cut it up, which leaves no trace of where in the text a token comes from. But they drop
nothing but white space of the cleaned text. So lengths are measured here in what tokens are made of, white space left
out: bytes of the cleaned text for open_clip's own, characters for transformers'.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from ediffi.registry.encoders.spans import Offsets, readable


def length(tokenizer: Any, part: str) -> int:
    """How long a part of a text is, cleaned, without white space."""
    solid = "".join(tokenizer.clean_fn(part).split())
    return len(solid.encode()) if _is_own(tokenizer) else len(solid)


def offsets(tokenizer: Any, text: str) -> Offsets:
    """What each token of a whole text covers, in `length`'s measure; without begin and end, and nothing is cut off."""
    if _is_own(tokenizer):
        widths = (len(tokenizer.decoder[token].removesuffix("</w>")) for token in tokenizer.encode(text))
        return list(pairwise(accumulate(widths, initial=0)))
    cleaned = tokenizer.clean_fn(text)
    encoded = tokenizer.tokenizer(cleaned, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    solid = list(accumulate((not character.isspace() for character in cleaned), initial=0))
    return [(solid[start], solid[end]) for start, end in encoded["offset_mapping"]]


def token_strings(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token reads, for people; half a character is shown as the replacement mark."""
    if not _is_own(tokenizer):
        return readable(tokenizer.tokenizer, ids)
    plain = (tokenizer.decoder[token].removesuffix("</w>") for token in ids)
    return [
        piece if token in tokenizer.all_special_ids else _text(tokenizer, piece)
        for token, piece in zip(ids, plain, strict=True)
    ]


def end_token(tokenizer: Any) -> int:
    """Id of the end token."""
    return int(tokenizer.eot_token_id if _is_own(tokenizer) else tokenizer.tokenizer.eos_token_id)


def _text(tokenizer: Any, piece: str) -> str:
    return bytes(tokenizer.byte_decoder[character] for character in piece).decode("utf-8", errors="replace")


def _is_own(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "byte_decoder")
