"""Tokenizers whose vocabulary is learned from captions, by Hugging Face's `tokenizers`."""

from collections.abc import Iterable
from typing import Any, Final

PAD, END, UNKNOWN, BEGIN = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL: Final = (PAD, END, UNKNOWN, BEGIN)
"""The special tokens; their ids are their positions here, before those of the vocabulary."""
WORDS = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]"
"""A word, a digit or a punctuation mark, which tokens do not cross."""


def byte_pairs(captions: Iterable[str], size: int, max_length: int) -> Any:
    """CLIP's kind of tokenizer: byte-pair encoding within lower-case words (Radford et al., arXiv 2103.00020, section
    2.4), with at most `size` tokens. Texts open with the begin token and close with the end token.

    Our choice: pairs of characters, not of bytes; a character that no caption has is unknown.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token=UNKNOWN))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    # The mark stands before a word: with one after it, the trainer's ids depend on the order of a hash map.
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace(prepend_scheme="always")])
    made.decoder = decoders.Metaspace()
    learn: dict[str, Any] = {"vocab_size": size, "special_tokens": list(SPECIAL), "show_progress": False}
    made.train_from_iterator(captions, trainers.BpeTrainer(**learn))
    ends = [(token, SPECIAL.index(token)) for token in (BEGIN, END)]
    made.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A {END}", special_tokens=ends)
    return _wrapped(made, max_length)


def _wrapped(tokenizer: Any, max_length: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN, "bos_token": BEGIN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)
