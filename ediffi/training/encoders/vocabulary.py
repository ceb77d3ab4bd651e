"""Tokenizers whose vocabulary is learned from captions, by Hugging Face's `tokenizers`."""

from collections.abc import Iterable
from typing import Any, Final

PAD, END, UNKNOWN, BEGIN = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL: Final = (PAD, END, UNKNOWN, BEGIN)
"""The special tokens; their ids are their positions here, before those of the vocabulary."""
WORDS = r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]"
"""A word, a digit or a punctuation mark, which tokens do not cross."""


def byte_pairs(captions: Iterable[str], size: int, max_length: int, begin: bool = True, sentinels: int = 0) -> Any:
    """A tokenizer of transformers with at most `size` tokens: byte-pair encoding within lower-case words, as CLIP's
    (Radford et al., arXiv 2103.00020, section 2.4). Texts close with the end token, and open with one if `begin`.

    `sentinels` are T5's `<extra_id_0>`, ..., which stand for spans that were cut out.

    Our choices: pairs of characters, not of bytes; a character that no caption has is unknown. And byte pairs for the
    T5 too: of a few thousand captions with a small vocabulary, sentencepiece's unigram model, T5's own, learns some 400
    pieces and spells the rest ("a" "nd", "s" "lic" "e"), where byte pairs learn every frequent word.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token=UNKNOWN))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    # The mark stands before a word: with one after it, the trainer's ids depend on the order of a hash map.
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace(prepend_scheme="always")])
    made.decoder = decoders.Metaspace()
    cut = [f"<extra_id_{index}>" for index in range(sentinels)]
    learn: dict[str, Any] = {"vocab_size": size, "special_tokens": [*SPECIAL, *cut], "show_progress": False}
    made.train_from_iterator(captions, trainers.BpeTrainer(**learn))
    ends = [(token, SPECIAL.index(token)) for token in (BEGIN, END)]
    frame = f"{BEGIN} $A {END}" if begin else f"$A {END}"
    made.post_processor = processors.TemplateProcessing(single=frame, special_tokens=ends)
    names: dict[str, Any] = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN, "bos_token": BEGIN}
    if cut:
        names["additional_special_tokens"] = cut
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=max_length, **names)
