"""Tokens of open_clip's tokenizers: its own byte-pair encoding (`SimpleTokenizer`), and those of transformers.

Both clean a text before they split it, and do not tell where in the text a token comes from. But of the cleaned text
they drop only white space. So lengths are measured here in cleaned text without white space: in bytes for open_clip's
own tokenizer, in characters for those of transformers.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from ediffi.registry.encoders.spans import Offsets, decode_tokens


def length(tokenizer: Any, part: str) -> int:
    """Length of a part of a text, cleaned, without white space."""
    solid = "".join(tokenizer.clean_fn(part).split())
    return len(solid.encode()) if _is_own(tokenizer) else len(solid)


def offsets(tokenizer: Any, text: str) -> Offsets:
    """[start, end) of each token of a whole text, as `length` measures; without begin and end token, not truncated."""
    if _is_own(tokenizer):
        widths = (len(tokenizer.decoder[token].removesuffix("</w>")) for token in tokenizer.encode(text))
        return list(pairwise(accumulate(widths, initial=0)))
    cleaned = tokenizer.clean_fn(text)
    encoded = tokenizer.tokenizer(cleaned, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    solid = list(accumulate((not character.isspace() for character in cleaned), initial=0))
    return [(solid[start], solid[end]) for start, end in encoded["offset_mapping"]]


def token_strings(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as readable text; half a character is the replacement character."""
    if not _is_own(tokenizer):
        return decode_tokens(tokenizer.tokenizer, ids)
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
