"""Where phrases stand, and which tokens cover them: on the real tokenizers, with sub-words, repeats and any script."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ediffi.folder import SHIPPED
from registry import encoders
from registry.encoders.clip import ClipTextEncoder
from registry.encoders.spans import covering, occurrences
from registry.encoders.t5 import T5TextEncoder

TEXT = "A photorealistic, (very) old tree-house; an OLD cathedral — café's cat, catalogue & cat!"
TRAINED_ON = [
    TEXT,
    "a red circle on the left of a blue square",
    "houses and trees in old towns",
    "cats catch catalogues",
]


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("a cat and a cathedral", "cat", ["cat"]),
        ("Cat, cat; CAT!", "cat", ["Cat", "cat", "CAT"]),
        ("a red  circle,\na red\tcircle", "red circle", ["red  circle", "red\tcircle"]),
        ("a red circle", "  red   circle ", ["red circle"]),
        ("tree-house", "house", ["house"]),
        ("a circle (red)", "(red)", ["(red)"]),
        ("a+b", "a+b", ["a+b"]),
        ("aa a aa", "a", ["a"]),
        ("cat catcat cat", "cat cat", []),
        ("catcat cat cat", "cat cat", ["cat cat"]),
        ("赤い円と青い四角", "青い四角", ["青い四角"]),
        ("دائرة حمراء كبيرة", "حمراء", ["حمراء"]),
        ("un café noir", "café", ["café"]),
        ("un cafe\u0301 noir", "cafe", []),
        ("a 🔴🔴 b", "🔴", ["🔴", "🔴"]),
        ("room 101 and 1010", "101", ["101"]),
        ("anything", " ", []),
        ("", "x", []),
    ],
)
def test_whole_words_are_found(text: str, phrase: str, found: list[str]) -> None:
    spans = occurrences(text, phrase)
    assert [text[start:end] for start, end in spans] == found
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


@given(st.lists(st.sampled_from(["red", "cat", "x1", "été", "حمراء"]), min_size=1, max_size=8), st.data())
def test_every_word_of_a_text_is_found_as_often_as_it_is_there(words: list[str], data: st.DataObject) -> None:
    word = data.draw(st.sampled_from(words))
    assert len(occurrences(" ".join(words), word)) == words.count(word)


def test_what_covers_a_stretch() -> None:
    offsets = [(0, 0), (0, 3), (3, 5), (5, 5), (5, 9)]
    assert covering(offsets, 0, 3) == range(1, 2)
    assert covering(offsets, 2, 4) == range(1, 3)
    assert covering(offsets, 4, 6) == range(2, 5)
    assert covering(offsets, 9, 12) == covering(offsets, 4, 4) == range(0, 0)


# The real tokenizers


@pytest.fixture(scope="module")
def t5_subwords() -> T5TextEncoder:
    """A tiny T5 with a sentencepiece-like tokenizer (Unigram and Metaspace, as T5's), trained here: sub-words occur."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    pieces = Tokenizer(models.Unigram())
    pieces.normalizer = normalizers.NFKC()
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    pieces.train_from_iterator(TRAINED_ON, trainer)
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5TextEncoder(T5EncoderModel(config), tokenizer, max_tokens=113)


@pytest.fixture(scope="module")
def clip_bpe() -> ClipTextEncoder:
    """A tiny CLIP with open_clip's own tokenizer and its real vocabulary."""
    import open_clip

    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    return ClipTextEncoder(model, open_clip.tokenizer.SimpleTokenizer())


@pytest.fixture(scope="module")
def toybox() -> Path:
    return SHIPPED / "toybox" / "encoders"


Reader = T5TextEncoder | ClipTextEncoder


@pytest.fixture(params=["t5_subwords", "clip_bpe", "toybox t5", "toybox clip"])
def reader(request: pytest.FixtureRequest, toybox: Path) -> Reader:
    kind: str = request.param
    if kind == "toybox t5":
        return encoders.create("t5", path=str(toybox / "t5"))
    if kind == "toybox clip":
        return encoders.create("clip_text", path=str(toybox / "clip"))
    return request.getfixturevalue(kind)


def read_back(reader: Reader, text: str, span: tuple[int, int]) -> str:
    """The text of the tokens that cover a range, without white space and case."""
    pieces = reader.pieces(text)
    return "".join("".join(pieces[k] for k in reader.token_range(text, *span)).split()).casefold()


@pytest.mark.parametrize(
    ("phrase", "occurrence"),
    [
        ("photorealistic", 0),
        ("(very)", 0),
        ("very", 0),
        ("old", 0),
        ("old", 1),
        ("tree-house", 0),
        ("cat", 0),
        ("cat", 1),
    ],
)
@pytest.mark.parametrize("kind", ["t5_subwords", "clip_bpe"])
def test_subwords_and_punctuation_give_the_phrase_back(
    request: pytest.FixtureRequest, kind: str, phrase: str, occurrence: int
) -> None:
    reader: Reader = request.getfixturevalue(kind)
    span = occurrences(TEXT, phrase)[occurrence]
    read = read_back(reader, TEXT, span)
    assert phrase.casefold() in read
    # a token may hold the punctuation beside a phrase as well ("),"), never a letter of another word
    assert sum(map(str.isalnum, read)) == sum(map(str.isalnum, phrase))


def test_subwords_do_occur(t5_subwords: T5TextEncoder, clip_bpe: ClipTextEncoder) -> None:
    span = occurrences(TEXT, "photorealistic")[0]
    assert len(t5_subwords.token_range(TEXT, *span)) > 1
    assert len(clip_bpe.token_range(TEXT, *span)) > 1


def test_words_share_the_tokens_out(reader: Reader) -> None:
    text = "a red circle left of a red square, both above one blue cross"
    words = [occurrences(text, word) for word in ("circle", "square", "both", "cross")]
    ranges = [reader.token_range(text, *spans[0]) for spans in words]
    assert all(one.stop <= two.start for one, two in pairwise(ranges))
    assert [read_back(reader, text, spans[0]) for spans in words] == ["circle", "square", "both", "cross"]
    first, second = (reader.token_range(text, *span) for span in occurrences(text, "red"))
    assert first.stop <= second.start
    assert len(first) == len(second) > 0


def test_special_tokens_cover_nothing(reader: Reader) -> None:
    text = "a red circle"
    ids, mask = reader.tokenize([text])
    everything = reader.token_range(text, 0, len(text))
    begin = isinstance(reader, ClipTextEncoder)
    assert everything == range(int(begin), int(mask.sum()) - 1)
    assert len(reader.pieces(text)) == ids.shape[1]
    assert reader.token_range(text, 3, 3) == range(0, 0)


@pytest.mark.parametrize(
    "text", ["  a   red\n circle ", "un café rouge", "a réd 🔴 circle", "دائرة حمراء", "a &amp; red circle"]
)
def test_spaces_and_scripts_do_not_shift_the_tokens(request: pytest.FixtureRequest, text: str) -> None:
    for kind in ("t5_subwords", "clip_bpe"):
        reader: Reader = request.getfixturevalue(kind)
        for word in text.split():
            if (spans := occurrences(text, word)) and "&" not in word and word.isascii():
                assert word in read_back(reader, text, spans[0])
        assert reader.token_range(text, 0, len(text))


def test_what_is_cut_off_is_not_covered(reader: Reader) -> None:
    text = "a red circle " * 60 + "and one blue cross"
    late, early = occurrences(text, "cross")[0], occurrences(text, "red")[0]
    assert reader.token_range(text, *late) == range(0, 0)
    assert len(reader.token_range(text, *early)) > 0
    last = int(reader.tokenize([text])[1].sum()) - 1  # before the end token; it may be a mere mark of white space
    assert reader.token_range(text, 0, len(text)).stop in (last, last - (reader.pieces(text)[last - 1] == "▁"))
    lost = reader.cut(text)
    assert lost.endswith("and one blue cross")
    assert reader.cut("a red circle") == ""
    seen = text[: text.rindex(lost)] if lost in text else text
    assert reader.cut(seen) == ""


def test_a_dtype_to_record(reader: Reader) -> None:
    assert str(reader.dtype) == "torch.float32"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("t5_xxl", ["google/t5-v1_1-xxl", encoders.T5_REVISION, "safetensors", "path", "nothing is unpickled"]),
        ("clip_l14_text", [encoders.CLIP_L14, encoders.CLIP_REVISION, "open_clip_model.safetensors", "path"]),
        ("clip_l14_image", [encoders.CLIP_L14, encoders.CLIP_REVISION, "open_clip_config.json", "path"]),
    ],
)
def test_offline_it_says_what_to_put_where(
    name: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    create: Callable[[], object] = encoders.REGISTRY.factory(name)
    with pytest.raises(FileNotFoundError) as error:
        create()
    assert all(part in str(error.value) for part in wanted)


def test_the_large_encoders_load_from_a_folder_too(toybox: Path) -> None:
    assert encoders.create("t5_xxl", path=str(toybox / "t5"), dtype="float32").width == 128
    assert encoders.create("t5_xxl", path=str(toybox / "t5")).dtype.is_floating_point
    assert encoders.create("clip_l14_text", path=str(toybox / "clip")).width == 128
    assert encoders.create("clip_l14_image", path=str(toybox / "clip")).width == 128
