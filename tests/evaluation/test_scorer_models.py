"""The scorers that ship, each on a tiny saved model of the real class, against the library's own way."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from ediffi.evaluation import scorers
from ediffi.evaluation.images.pairs import ImagePairs, partners
from ediffi.evaluation.metrics.decoding import ImageDecoder
from ediffi.evaluation.metrics.intervals import intervals, pair_mean
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.scorers.answers import QUESTION
from tests.evaluation.test_reference import Drawn
from tests.tiny_encoders import word_tokenizer

CAPTIONS = [f"a red circle and {word} crosses" for word in ("two", "green", "blue", "small")]
IMAGES = [Drawn(4)[k].resize((64, 64)) for k in range(4)]


def batch(scorer: scorers.NamedScorer) -> Tensor:
    return torch.stack([scorer.prepare(image) for image in IMAGES])


@pytest.fixture(scope="module")
def squeezenet(new_folder: Callable[[str], Path]) -> Path:
    """A file with random weights, as torchvision's have names."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    path = new_folder("squeezenet") / "squeezenet1_1.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_lpips_is_that_of_torchmetrics(net: str, squeezenet: Path, tmp_path: Path) -> None:
    import torchvision
    from torchmetrics.functional.image.lpips import _LPIPS

    path = squeezenet
    if net == "alex":
        path = tmp_path / "alexnet.pth"
        features = torchvision.models.alexnet(weights=None).state_dict()
        torch.save({name: part for name, part in features.items() if name.startswith("features.")}, path)
    found = scorers.load("lpips_diversity", {"net": net, "weights": str(path)})
    pairs = torch.cat([batch(found), batch(found).flip(0)], 3)
    theirs = _LPIPS(net=net, pnet_rand=True)
    model = getattr(torchvision.models, {"squeeze": "squeezenet1_1", "alex": "alexnet"}[net])(weights=None)
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    for name, module in theirs.net.named_modules():  # the same layers, found by their numbers
        if isinstance(module, torch.nn.Conv2d):
            numbers = [part for part in name.split(".") if not part.startswith("slice")]
            own = numbers[1:] if net == "squeeze" else numbers
            module.load_state_dict(model.features.get_submodule(".".join(own)).state_dict())
    with torch.no_grad():
        first, second = batch(found).float() / 255, batch(found).flip(0).float() / 255
        wanted = theirs(first, second, normalize=True).flatten()
    scores = found(pairs, CAPTIONS)
    torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-7)
    assert scores.std() > 0
    assert (found(torch.cat([batch(found)] * 2, 3), CAPTIONS) == 0).all()
    assert found.pairs


def test_lpips_says_what_to_download(monkeypatch: pytest.MonkeyPatch, squeezenet: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"alexnet-owt-7be5be79\.pth and give the file as weights .*without a"):
        scorers.load("lpips_diversity")
    with pytest.raises(ValueError, match="holds no weights of alexnet"):
        scorers.load("lpips_diversity", {"weights": str(squeezenet)})
    with pytest.raises(ValueError, match="net must be one of alex, vgg, squeeze, got 'lite'"):
        scorers.load("lpips_diversity", {"net": "lite"})
    with pytest.raises(ValueError, match="net of the scorer lpips_diversity should be a valid string, got 5"):
        scorers.load("lpips_diversity", {"net": 5})
    with pytest.raises(ValueError, match=r"the scorer vqascore needs path: in a suite, scorers: {vqascore: {path: "):
        scorers.load("vqascore")


def test_pairs_are_of_one_caption_where_all_have_several() -> None:
    assert partners(["a", "b", "a", "b", "a"]) == [2, 3, 4, 1, 0]
    circle = partners(["a", "b", "a", "c"])
    assert sorted(circle) == [0, 1, 2, 3]
    place = 0
    for _ in range(3):  # one circle through all
        place = circle[place]
        assert place != 0
    with pytest.raises(ValueError, match="a pair needs 2 images"):
        partners(["a"])


def test_pairs_are_measured_in_a_pass_of_their_own(squeezenet: Path, tmp_path: Path) -> None:
    scorer = scorers.load("lpips_diversity", {"net": "squeeze", "weights": str(squeezenet)})
    images, order = Drawn(9), partners([str(k) for k in range(9)])
    pairs = ImagePairs(ImageDecoder(images, True), order)
    measure(pairs, tmp_path / "rows", MetricNetworks(scorer=scorer), captions=[""] * 9, batch_size=4)
    found = Rows.read(tmp_path / "rows").scores()
    assert found.std() > 0
    wide = torch.cat([scorer.prepare(images[2]), scorer.prepare(images[order[2]])], 2)[None]
    np.testing.assert_allclose(found[2], scorer(wide, [""]), rtol=1e-5)
    other = ImagePairs(ImageDecoder(images, True), order[::-1])
    with pytest.raises(ValueError, match="holds measurements with other pictures"):
        measure(other, tmp_path / "rows", MetricNetworks(scorer=scorer), captions=[""] * 9)


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_the_interval_of_a_mean_over_pairs_covers(own: float) -> None:
    """Of |x - y|² and, where an image's own part prevails, of x + y; the mean is known."""
    rng, covered, n = np.random.default_rng(0), 0, 200
    for _ in range(400):
        x, partner = rng.standard_normal(n), np.roll(rng.permutation(n), 1)
        order = rng.permutation(n)
        partner[order] = np.roll(order, 1)
        values = own * (x + x[partner]) + (1 - own) * np.square(x - x[partner])
        ((low, high),) = intervals({"x": pair_mean(values + 9, partner)}, np.arange(n), draws=400).values()
        covered += low <= 9 + (1 - own) * 2 <= high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.fixture(scope="module")
def tiny_clip() -> Iterator[str]:
    """open_clip's network at tiny size, under a name of its own."""
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    known = open_clip.factory._MODEL_CONFIGS
    known["tiny-hps"] = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    yield "tiny-hps"
    known.pop("tiny-hps")


def test_hpsv2_is_the_cosine_of_its_network(tiny_clip: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = open_clip.create_model(tiny_clip, pretrained=None).eval(), tmp_path / "HPS.pt"
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, path)
    found = scorers.load("hpsv2", {"path": str(path), "model": tiny_clip})
    _, _, prepare = open_clip.create_model_and_transforms(tiny_clip, pretrained=None, image_resize_mode="longest")
    with torch.no_grad():
        pixels, ids = torch.stack([prepare(image) for image in IMAGES]), open_clip.get_tokenizer(tiny_clip)(CAPTIONS)
        wanted = (model.encode_image(pixels, normalize=True) @ model.encode_text(ids, normalize=True).T).diagonal()
    torch.testing.assert_close(found(batch(found), CAPTIONS), wanted, atol=1e-6, rtol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"download HPS_v2\.1_compressed\.pt"):
        scorers.load("hpsv2", {"path": "nowhere.pt"})
    torch.save({"state_dict": {"logit_scale": torch.zeros(())}}, path)
    with pytest.raises(ValueError, match="holds no weights of HPSv2's tiny-hps"):
        scorers.load("hpsv2", {"path": str(path), "model": tiny_clip})


@pytest.fixture(scope="module")
def blip2(new_folder: Callable[[str], Path]) -> Path:
    """A tiny BLIP-2 with a T5, and its processor, as `save_pretrained` writes them."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    torch.manual_seed(0)
    folder, tokenizer = new_folder("blip2"), word_tokenizer(False, 64)
    tokenizer.add_tokens(["yes", "no", "<image>"])
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    text = {"model_type": "t5", "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 1}
    ends = {"pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": 0}
    config = Blip2Config(
        vision_config={**small, "image_size": 24, "patch_size": 8},
        qformer_config={**small, "encoder_hidden_size": 16, "vocab_size": len(tokenizer)},
        text_config={**text, **ends, "vocab_size": len(tokenizer)},
        num_query_tokens=2,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    model.generation_config.update(**ends)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(folder)
    image_processor = BlipImageProcessor(size={"height": 24, "width": 24})
    Blip2Processor(image_processor, tokenizer, num_query_tokens=2).save_pretrained(folder)
    return folder


def test_vqascore_is_the_probability_of_yes(blip2: Path, tmp_path: Path) -> None:
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    found = scorers.load("vqascore", {"path": str(blip2)})
    model, processor = Blip2ForConditionalGeneration.from_pretrained(blip2), Blip2Processor.from_pretrained(blip2)
    wanted, yes = [], processor.tokenizer.convert_tokens_to_ids("yes")
    for image, caption in zip(IMAGES, CAPTIONS, strict=True):
        inputs = processor(images=image, text=QUESTION.format(caption), return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits
        wanted.append(float(logits[0, 0].softmax(0)[yes]))
    scores = found(batch(found), CAPTIONS)
    torch.testing.assert_close(scores, torch.tensor(wanted), rtol=1e-4, atol=1e-7)
    assert scores.std() > 0
    assert (scores > 0).all()
    with pytest.raises(FileNotFoundError, match="is no image-text model of transformers: a folder with config"):
        scorers.load("vqascore", {"path": str(tmp_path)})
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16, got 'float8'"):
        scorers.load("vqascore", {"path": str(blip2), "dtype": "float8"})


def test_an_image_of_a_pair_that_is_broken_is_named() -> None:
    class Half(Drawn):
        def __getitem__(self, index: int) -> Image.Image:
            if index == 1:
                raise FileNotFoundError("no image 1.png")
            return super().__getitem__(index)

    pairs: Any = ImagePairs(ImageDecoder(Half(3), False), [1, 2, 0])
    with pytest.raises(ValueError, match=r"0\.png beside 1\.png is no pair: an image is broken"):
        pairs[0]
    assert pairs[2].size[0] == 2 * Drawn(3)[0].size[0]
