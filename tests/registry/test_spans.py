"""Where phrases stand, and which tokens cover them: on the real tokenizers, with sub-words, repeats and any script."""

import json
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import T5Config, T5EncoderModel

from ediffi.hub.models import SHIPPED
from ediffi.registry import encoders
from ediffi.registry.encoders.clip import ClipTextEncoder
from ediffi.registry.encoders.clip_files import PINNED, load_clip_named
from ediffi.registry.encoders.folder import from_hub
from ediffi.registry.encoders.spans import covering, occurrences, safe_split, without_space
from ediffi.registry.encoders.text import HfTextEncoder
from tests.tiny_encoders import word_tokenizer

TEXT = "A photorealistic, (very) old tree-house; an OLD cathedral — café's cat, catalogue & cat!"
TRAINED_ON = [
    *(TEXT, "a red circle on the left of a blue square", "houses and trees in old towns", "cats catch catalogues"),
    *(
        "the quick brown fox jumps over the lazy dog & vexes “Zoë” - naïve",
        "דג אדום دائرة حمراء 赤い円 мир ½ 🔴 1234567890",
    ),
]
WORDS = [
    "red",
    "photorealistic",
    "cathedral",
    "naïve",
    "ex-wife",
    "мир",
    "دائرة",
    "אדום",
    "赤い円",
    "x2",
    "(very)",
    "old,",
]
ENTITIES = [
    "&amp;",
    "&lt;b&gt;",
    "cafÃ©",
    "ﬁne",
    "“old”",
    "cafe\u0301",
    "２",
    "Straße",
    "ΟΔΟΣ",
    "🔴",
    "👩\u200d🚀",
    "½",
]
"""Words that cleaning or normalisation changes."""


# Where phrases stand


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("a cat and a cathedral", "cat", ["cat"]),
        ("concat", "cat", []),
        ("Cat, cat; CAT!", "cat", ["Cat", "cat", "CAT"]),
        ("eine STRASSE, eine Straße", "straße", ["STRASSE", "Straße"]),
        ("eine Straße", "stras", []),
        ("ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς", ["ὈΔΥΣΣΕΎΣ"]),
        ("a red  circle,\na red\tcircle", "red circle", ["red  circle", "red\tcircle"]),
        ("a red\u00a0circle", "  red   circle ", ["red\u00a0circle"]),
        ("tree-house", "house", ["house"]),
        ("a circle (red), red)", "(red)", ["(red)"]),
        ("the cat's cat", "cat", ["cat", "cat"]),
        ("a+b and a+bc", "a+b", ["a+b"]),
        ("aa a aa", "a", ["a"]),
        ("old old old", "old old", ["old old"]),
        ("cat catcat cat", "cat cat", []),
        ("catcat cat cat", "cat cat", ["cat cat"]),
        ("room 101 and 1010", "101", ["101"]),
        ("room x1", "x", []),
        ("赤い円と青い四角", "青い四角", ["青い四角"]),
        ("赤い円と円", "円", ["円", "円"]),
        ("赤いcatと", "cat", ["cat"]),
        ("고양이가 잔다", "고양이", ["고양이"]),
        ("한", "하", []),
        ("แมวสีแดง", "สีแดง", ["สีแดง"]),
        ("แมวสีแดง", "ส", []),
        ("हिन्दी", "हिन्द", []),
        ("دائرة حمراء كبيرة", "حمراء", ["حمراء"]),
        ("دائرة \u200fحمراء\u200f كبيرة", "حمراء", ["حمراء"]),
        ("کتاب\u200cها", "کتاب", []),
        ("کتاب\u200cها", "ها", []),
        ("un café noir", "café", ["café"]),
        ("un cafe\u0301 noir", "café", ["cafe\u0301"]),
        ("un café noir", "CAFE\u0301", ["café"]),
        ("un cafe\u0301 noir", "cafe", []),
        ("un café noir", "cafe", []),
        ("a 🔴🔴 b", "🔴", ["🔴", "🔴"]),
        ("a 👩\u200d🚀 and 👩", "👩", ["👩"]),
        ("👍🏽 👍", "👍", ["👍"]),
        ("❤\ufe0fcat", "cat", ["cat"]),
        ("anything", " ", []),
        ("anything", "else", []),
        ("", "x", []),
        ("", "", []),
    ],
)
def test_whole_words_are_found(text: str, phrase: str, found: list[str]) -> None:
    spans = occurrences(text, phrase)
    assert [text[start:end] for start, end in spans] == found
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


@given(
    st.lists(st.sampled_from(["red", "cat", "x1", "été", "حمراء", "Straße", "İ"]), min_size=1, max_size=8), st.data()
)
def test_every_word_of_a_text_is_found_as_often_as_it_is_there(words: list[str], data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(words))
    for write in (str, str.upper, str.casefold, lambda text: unicodedata.normalize("NFD", text)):
        text = data.draw(st.sampled_from([" ", "  ", "\n", ", "])).join(map(write, words))
        spans = occurrences(text, word)
        assert [text[start:end] for start, end in spans] == [write(one) for one in words if one == word]


@given(st.text(max_size=30), st.text(max_size=4))
def test_any_text_has_a_place_in_itself(text: str, phrase: str) -> None:
    assert occurrences(text, text) == ([(_first(text), len(text.rstrip()))] if text.strip() else [])
    for start, end in occurrences(text, phrase):
        assert 0 <= start < end <= len(text)
        assert _plain(text[start:end]) == _plain(phrase)


def _first(text: str) -> int:
    return len(text) - len(text.lstrip())


def _plain(text: str) -> str:
    return " ".join(_canonical("".join(map(_canonical, text))).split())


def _canonical(text: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


def test_what_covers_a_stretch() -> None:
    offsets = [(0, 0), (0, 3), (3, 5), (5, 5), (5, 9)]
    assert covering(offsets, 0, 3) == range(1, 2)
    assert covering(offsets, 2, 4) == range(1, 3)
    assert covering(offsets, 4, 6) == range(2, 5)
    assert covering(offsets, 9, 12) == covering(offsets, 4, 4) == range(0, 0)


def test_marks_of_white_space_cover_nothing() -> None:
    pieces = ["▁a", "▁", "x", "▁red"]
    assert without_space("a x red", pieces, [(0, 1), (1, 2), (2, 3), (3, 7)]) == [(0, 1), (2, 2), (2, 3), (4, 7)]
    assert without_space("a x red", pieces, [(0, 1), (2, 3), (2, 3), (4, 7)]) == [(0, 1), (3, 3), (2, 3), (4, 7)]


def test_a_seam_is_where_cutting_changes_nothing() -> None:
    def length(part: str) -> int:
        return len(part.replace("&amp;", "&"))

    text = "a &amp; b"
    assert [safe_split(text, index, -1, length) for index in range(10)] == [0, 1, 2, 2, 2, 2, 2, 7, 8, 9]
    assert [safe_split(text, index, 1, length) for index in range(10)] == [0, 1, 2, 7, 7, 7, 7, 7, 8, 9]


# The real tokenizers


@pytest.fixture(scope="module")
def t5_folder(new_folder: Callable[[str], Path]) -> Path:
    """A tiny T5 as google publishes it: with a spiece.model, trained here by sentencepiece, that transformers reads."""
    import sentencepiece

    folder = new_folder("t5")
    config = T5Config(vocab_size=256, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINED_ON * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=140,
        character_coverage=1.0,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 100, "model_max_length": 512}')
    return folder


@pytest.fixture(scope="module")
def t5_spiece(t5_folder: Path) -> HfTextEncoder:
    return encoders.t5(str(t5_folder))


@pytest.fixture(scope="module")
def t5_metaspace() -> HfTextEncoder:
    """A tokenizer as older T5s have it: its offsets count the white space before a word as the word's."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.Unigram())
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    pieces.train_from_iterator(TRAINED_ON, trainer)
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return HfTextEncoder(T5EncoderModel(config), tokenizer, max_tokens=113)


@pytest.fixture(scope="module")
def bert() -> HfTextEncoder:
    """A tiny BERT: WordPiece, a token before the text and one after it, and places up to 40."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=260, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(TRAINED_ON, trainer)
    frame = "[CLS] $A [SEP]"
    pieces.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **names)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=113, **sizes)
    return HfTextEncoder(BertModel(config), tokenizer, max_tokens=113, pooling="mean")


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip_bpe() -> ClipTextEncoder:
    """A tiny CLIP with open_clip's own tokenizer and its real vocabulary."""
    return ClipTextEncoder(open_clip.CLIP(**TINY_CLIP), open_clip.tokenizer.SimpleTokenizer())


@pytest.fixture(scope="module")
def clip_hf(new_folder: Callable[[str], Path]) -> ClipTextEncoder:
    """The same vocabulary in a tokenizer of transformers', in open_clip's wrapping."""
    from transformers import CLIPTokenizer

    own = open_clip.tokenizer.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): index for piece, index in own.encoder.items()}
    folder = new_folder("clip")
    CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks)).save_pretrained(folder)
    wrapped = open_clip.tokenizer.HFTokenizer(str(folder), local_files_only=True)
    return ClipTextEncoder(open_clip.CLIP(**TINY_CLIP), wrapped)


Reader = HfTextEncoder | ClipTextEncoder
SUBWORDS = ["t5_spiece", "t5_metaspace", "bert", "clip_bpe", "clip_hf"]


@pytest.fixture(scope="module")
def readers(
    t5_spiece: Reader, t5_metaspace: Reader, bert: Reader, clip_bpe: Reader, clip_hf: Reader
) -> dict[str, Reader]:
    toybox = SHIPPED / "toybox" / "encoders"
    return {
        **dict(zip(SUBWORDS, (t5_spiece, t5_metaspace, bert, clip_bpe, clip_hf), strict=True)),
        "toybox t5": encoders.t5(str(toybox / "t5")),
        "toybox clip": encoders.clip_text(str(toybox / "clip")),
    }


@pytest.fixture(params=[*SUBWORDS, "toybox t5", "toybox clip"])
def reader(request: pytest.FixtureRequest, readers: dict[str, Reader]) -> Reader:
    return readers[request.param]


@pytest.fixture(params=SUBWORDS)
def subwords(request: pytest.FixtureRequest, readers: dict[str, Reader]) -> Reader:
    return readers[request.param]


def read_back(reader: Reader, text: str, span: tuple[int, int]) -> str:
    """The text of the tokens that cover a range, decoded at once, without white space and case."""
    ids = reader.tokenize([text])[0][0][list(reader.token_range(text, *span))].tolist()
    tokenizer: Any = reader.tokenizer
    decode = getattr(tokenizer, "decode", None) or tokenizer.tokenizer.decode
    return "".join(decode(ids).split()).casefold() if ids else ""


def as_read(reader: Reader, part: str) -> str:
    """What a part of a text is to a tokenizer, by the tokenizer's own round trip."""
    return read_back(reader, part, (0, len(part)))


def test_a_toybox_t5_is_transformers_own_t5(t5_spiece: HfTextEncoder, t5_folder: Path) -> None:
    own = T5EncoderModel.from_pretrained(t5_folder).eval()
    with torch.no_grad():
        wanted = own(**t5_spiece.tokenizer(TEXT, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(t5_spiece([TEXT]).tokens, wanted, atol=1e-5, rtol=1e-5)


def test_words_are_cut_into_pieces(subwords: Reader) -> None:
    assert len(subwords.token_range(TEXT, *occurrences(TEXT, "photorealistic")[0])) > 1


@given(st.lists(st.sampled_from(WORDS + ENTITIES), min_size=1, max_size=6), st.data())
@pytest.mark.parametrize("kind", [*SUBWORDS, "toybox t5", "toybox clip"])
def test_a_word_has_the_tokens_that_it_has_alone(
    readers: dict[str, Reader], kind: str, words: list[str], data: st.DataObject
) -> None:
    reader, text, spans = readers[kind], data.draw(st.sampled_from(["", " ", "\n"])), []
    for word in words:
        spans.append((len(text), len(text) + len(word)))
        text += word + data.draw(st.sampled_from([" ", "  ", "\n", "\u00a0"]))
    ids = reader.tokenize([text])[0][0]
    ranges = [reader.token_range(text, *span) for span in spans]
    for word, found in zip(words, ranges, strict=True):
        alone = reader.tokenize([word])[0][0][list(reader.token_range(word, 0, len(word)))]
        assert len(alone)
        assert ids[list(found)].tolist() == alone.tolist()
    assert all(one.stop <= two.start for one, two in pairwise(ranges))


@given(st.text(max_size=20), st.data())
@pytest.mark.parametrize("kind", [*SUBWORDS, "toybox t5", "toybox clip"])
def test_no_text_leads_out_of_its_tokens(readers: dict[str, Reader], kind: str, text: str, data: st.DataObject) -> None:
    reader = readers[kind]
    begin = int(isinstance(reader, ClipTextEncoder) or reader.tokenizer.cls_token is not None)
    own = range(begin, int(reader.tokenize([text])[1].sum()) - 1)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    found, everything = reader.token_range(text, start, end), reader.token_range(text, 0, len(text))
    assert not found or (found[0] in everything and found[-1] in everything)
    assert not everything or (everything[0] in own and everything[-1] in own)
    assert reader.truncated_text(text) == ""


@pytest.mark.parametrize(
    ("phrase", "number"),
    [
        *[("photorealistic", 0), ("(very)", 0), ("very", 0), ("old", 0), ("old", 1), ("tree-house", 0), ("house", 0)],
        *[("cathedral", 0), ("café's", 0), ("cat", 0), ("cat", 1), ("catalogue & cat", 0), ("OLD cathedral —", 0)],
    ],
)
def test_a_range_decodes_to_the_phrase(subwords: Reader, phrase: str, number: int) -> None:
    span = occurrences(TEXT, phrase)[number]
    read = read_back(subwords, TEXT, span)
    wanted = "".join(phrase.casefold().split())
    assert wanted in read
    # a token may hold the punctuation beside a phrase as well ("),"), never a letter of another word
    assert sum(map(str.isalnum, read)) == sum(map(str.isalnum, wanted))
    pieces = [subwords.token_strings(TEXT)[k] for k in subwords.token_range(TEXT, *span)]
    assert "".join("".join(pieces).replace("▁", "").replace("##", "").split()).casefold() == read


def test_every_occurrence_has_its_own_tokens(reader: Reader) -> None:
    text = "a red circle left of a Red square, both above one RED cross"
    ranges = [reader.token_range(text, *span) for span in occurrences(text, "red")]
    assert len(ranges) == 3
    assert all(one and one.stop <= two.start for one, two in pairwise(ranges))
    for word in ("circle", "square", "both", "cross"):
        assert read_back(reader, text, occurrences(text, word)[0]) == word


def test_pieces_are_for_people(readers: dict[str, Reader]) -> None:
    assert readers["toybox clip"].token_strings("a red circle") == ["<s>", "a", "red", "circle", "</s>"]
    assert readers["toybox t5"].token_strings("a red circle") == ["a", "red", "circle", "</s>"]
    photorealistic = ["photo", "realistic"]
    assert readers["clip_bpe"].token_strings("Photorealistic") == ["<start_of_text>", *photorealistic, "<end_of_text>"]
    assert readers["clip_hf"].token_strings("Photorealistic") == ["<|startoftext|>", *photorealistic, "<|endoftext|>"]
    assert (
        readers["clip_bpe"].token_strings("café &amp;")[1:-1]
        == readers["clip_hf"].token_strings("café &amp;")[1:-1]
        == ["café", "&"]
    )
    assert readers["t5_spiece"].token_strings("cat </s>") == ["cat", "</s>", "</s>"]
    assert readers["t5_spiece"].token_strings("\u2603") == ["▁", "<unk>", "</s>"]


def test_special_tokens_cover_nothing(reader: Reader) -> None:
    text = " a red circle\n"
    ids, mask = reader.tokenize([text])
    begin = int(isinstance(reader, ClipTextEncoder) or reader.tokenizer.cls_token is not None)
    last = int(mask.sum()) - 1 - (reader.token_strings(text)[-2] == "▁")  # white space at the end is a token to some
    assert reader.token_range(text, 0, len(text)) == range(begin, last)
    assert len(reader.token_strings(text)) == ids.shape[1]
    assert reader.token_range(text, 3, 3) == reader.token_range(text, 0, 1) == range(0, 0)
    assert reader.token_range("", 0, 0) == range(0, 0)


def test_what_cleaning_changes_is_covered_as_a_whole(clip_bpe: ClipTextEncoder) -> None:
    text = "a &amp; red cafÃ© too"
    for start, end in ((2, 7), (3, 6), (2, 3), (6, 7)):
        assert clip_bpe.token_range(text, start, end) == range(2, 3)
    assert clip_bpe.token_range(text, 4, 4) == range(0, 0)
    assert read_back(clip_bpe, text, occurrences(text, "red")[0]) == "red"
    for start, end in ((15, 17), (15, 16), (16, 17)):
        assert read_back(clip_bpe, text, (start, end)) == "café"
    assert read_back(clip_bpe, text, occurrences(text, "too")[0]) == "too"


def test_what_is_cut_off_is_not_covered(reader: Reader) -> None:
    text = "a red circle " * 60 + "and one blue CROSS"
    late, early = occurrences(text, "cross")[0], occurrences(text, "red")[0]
    assert reader.token_range(text, *late) == range(0, 0)
    assert len(reader.token_range(text, *early)) > 0
    length = reader.tokenize([text])[0].shape[1]
    assert length in (77, 113)
    assert reader.token_range(text, 0, len(text)).stop in (
        length - 1,
        length - 1 - (reader.token_strings(text)[-2] == "▁"),
    )


def test_cut_is_what_is_not_covered(reader: Reader) -> None:
    assert reader.truncated_text("a red circle") == reader.truncated_text("") == ""
    text = "a red  circle &amp; a (photorealistic) café 🔴 " * 12 + "and one blue CROSS"
    lost = reader.truncated_text(text)
    assert lost.endswith("and one blue CROSS")
    assert text.endswith(lost)
    seen = text.removesuffix(lost)
    assert reader.truncated_text(seen) == ""
    assert reader.token_range(text, len(seen), len(text)) == range(0, 0)
    everything = reader.token_range(text, 0, len(text))
    assert reader.token_range(text, 0, len(seen)) == everything
    last = len(seen.rstrip())
    assert reader.token_range(text, last - 1, last)
    assert (
        reader.tokenize([seen])[0][0][list(everything)].tolist()
        == reader.tokenize([text])[0][0][list(everything)].tolist()
    )


def test_a_word_may_be_partly_cut(readers: dict[str, Reader]) -> None:
    text = "red " * 74 + "photorealistic circle"
    span = occurrences(text, "photorealistic")[0]
    for kind in ("clip_bpe", "clip_hf"):
        assert readers[kind].token_range(text, *span) == range(75, 76)
        assert readers[kind].truncated_text(text) == "realistic circle"


def test_a_clip_need_not_have_a_begin_token(tmp_path: Path) -> None:
    word_tokenizer(begin=False, max_length=77).save_pretrained(tmp_path)
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path), local_files_only=True)
    encoder = ClipTextEncoder(open_clip.CLIP(**TINY_CLIP), tokenizer)
    assert encoder.token_range("a red circle", 2, 5) == range(1, 2)
    assert encoder.token_strings("a red circle") == ["a", "red", "circle", "</s>"]
    assert encoder.truncated_text("a red circle " * 26) == "red circle"


def test_an_end_token_within_a_text_ends_it(clip_bpe: ClipTextEncoder) -> None:
    text = "a red circle <end_of_text> a cross"
    assert clip_bpe.token_range(text, *occurrences(text, "cross")[0]) == range(0, 0)
    assert clip_bpe.token_range(text, 0, len(text)) == range(1, 4)
    assert clip_bpe.truncated_text(text) == "<end_of_text> a cross"


# The paper's encoders


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "t5_xxl",
            ["google/t5-v1_1-xxl", encoders.T5_REVISION, "model.safetensors", "spiece.model", "save_pretrained"],
        ),
        ("clip_l14_text", [*next(iter(PINNED.items())), "open_clip_model.safetensors"]),
        ("clip_l14_image", [*next(iter(PINNED.items())), "open_clip_model.safetensors"]),
    ],
)
def test_offline_it_says_what_to_put_where(
    name: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"as path$") as error:
        encoders.create(name)
    assert all(part in str(error.value) for part in [*wanted, "download"])
    assert "\n" not in str(error.value)
    assert ". " not in str(error.value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes a repository's folder, of one revision, in a cache of the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def make(repository: str, revision: str) -> Path:
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
        folder.mkdir(parents=True)
        return folder

    return make


def test_the_pinned_t5_is_read_from_the_cache(cache: Callable[[str, str], Path], t5_folder: Path) -> None:
    folder = cache("google/t5-v1_1-xxl", encoders.T5_REVISION)
    for name in ("config.json", "spiece.model", "tokenizer_config.json"):
        (folder / name).write_bytes((t5_folder / name).read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors.*nothing is unpickled here"):
        encoders.t5_xxl()
    (folder / "model.safetensors").write_bytes((t5_folder / "model.safetensors").read_bytes())
    assert encoders.t5_xxl().dtype == torch.bfloat16
    assert encoders.t5_xxl(dtype="float32").dtype == torch.float32
    with pytest.raises(FileNotFoundError, match="revision main"):
        encoders.t5_xxl(revision=None)


def test_shards_are_read(t5_folder: Path, t5_spiece: HfTextEncoder, tmp_path: Path) -> None:
    T5EncoderModel.from_pretrained(t5_folder).save_pretrained(tmp_path, max_shard_size="8KB")
    t5_spiece.tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    encoded = encoders.t5_xxl(str(tmp_path), dtype="float32")([TEXT])
    torch.testing.assert_close(encoded.tokens, t5_spiece([TEXT]).tokens)
    index = tmp_path / "model.safetensors.index.json"
    shard = sorted(set(json.loads(index.read_text())["weight_map"].values()))[0]
    (tmp_path / shard).rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=f"has no {shard}"):
        encoders.t5_xxl(str(tmp_path))
    index.write_text('{"weight_map": {"shared.weight": "pytorch_model.bin"}}')
    with pytest.raises(ValueError, match=r"shards.*safetensors"):
        encoders.t5_xxl(str(tmp_path))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A network that open_clip knows by name, with a tag of weights that were trained with QuickGELU."""
    tags = {"quick": open_clip.get_pretrained_cfg("ViT-L-14", "openai") | {"hf_hub": "someone/tiny/"}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-tiny", TINY_CLIP)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-tiny", tags)
    return "ViT-tiny"


def test_a_named_clip_computes_as_its_weights_were_trained(
    tiny: str, cache: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    monkeypatch.setitem(PINNED, "someone/tiny", "0" * 40)
    quick = open_clip.CLIP(**TINY_CLIP, quick_gelu=True)
    folder = cache("someone/tiny", "0" * 40)
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match=r"someone/tiny.*has no open_clip_model\.safetensors"):
        load_clip_named(tiny, "quick")
    save_file(
        {name: weight.contiguous() for name, weight in quick.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    wanted = ClipTextEncoder(quick, open_clip.get_tokenizer("ViT-L-14"))([TEXT])
    for path in (None, "someone/tiny", str(folder)):
        encoded = ClipTextEncoder(*load_clip_named(tiny, "quick", path, None))([TEXT])
        torch.testing.assert_close(encoded.tokens, wanted.tokens)
    other = open_clip.CLIP(**TINY_CLIP)
    other.load_state_dict(quick.state_dict())
    assert not torch.allclose(ClipTextEncoder(other, open_clip.get_tokenizer("ViT-L-14"))([TEXT]).tokens, wanted.tokens)


def test_openais_tag_has_what_is_relied_on() -> None:
    settings = open_clip.get_pretrained_cfg("ViT-L-14", "openai")
    assert settings["hf_hub"].rstrip("/") in PINNED
    assert settings["quick_gelu"]
    assert all(
        open_clip.get_pretrained_cfg("ViT-L-14", tag)["hf_hub"].endswith("/")
        for tag in open_clip.list_pretrained_tags_by_model("ViT-L-14")
    )


def test_only_what_is_named_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    assert from_hub("someone/tiny", "v1", ["a.safetensors"]) == tmp_path
    assert asked == [
        (("someone/tiny",), {"revision": "v1", "allow_patterns": ["a.safetensors"], "local_files_only": True})
    ]
    for create in (encoders.t5_xxl, encoders.clip_l14_text):
        with pytest.raises(FileNotFoundError):
            create()
    assert asked[-1][1]["allow_patterns"] == ["open_clip_model.safetensors"]
    with pytest.raises(FileNotFoundError):
        encoders.clip_l14_text(path="someone/tiny", revision="v2")
    assert asked[-1][1]["revision"] == "v2"
    assert "open_clip_config.json" in asked[-1][1]["allow_patterns"]
    assert not any("bin" in pattern or pattern == "*" for _, named in asked for pattern in named["allow_patterns"])


def test_the_large_encoders_load_from_a_folder_too() -> None:
    toybox = SHIPPED / "toybox" / "encoders"
    assert encoders.create("t5_xxl", path=str(toybox / "t5"), dtype="float32").width == 128
    assert encoders.create("clip_l14_text", path=str(toybox / "clip")).width == 128
    assert encoders.create("clip_l14_image", path=str(toybox / "clip")).width == 128


def test_a_dtype_to_record(reader: Reader) -> None:
    assert str(reader.dtype) == "torch.float32"
    toybox = SHIPPED / "toybox" / "encoders"
    assert encoders.t5_xxl(path=str(toybox / "t5")).dtype == torch.bfloat16
    assert encoders.clip_image(path=str(toybox / "clip")).dtype == torch.float32
