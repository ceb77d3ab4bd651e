"""Scorers by name, several networks in one pass, and what is refused."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from ediffi.evaluation import scorers
from ediffi.evaluation.metrics.dinov2 import Dinov2Features
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.reference import extract_together, reference_statistics
from ediffi.evaluation.metrics.rows import Rows
from ediffi.registry.core import UnknownNameError
from tests.evaluation.test_reference import RULE, Drawn, Rowsums
from tests.tiny_encoders import word_tokenizer

CAPTIONS = [f"a red circle and {k} crosses" for k in range(9)]


@pytest.fixture(scope="module")
def preference(new_folder: Callable[[str], Path]) -> Path:
    """A tiny CLIP of transformers with its tokenizer, as `save_pretrained` writes them."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    folder, tokenizer = new_folder("preference"), word_tokenizer(True, 16)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**small, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**small, "image_size": 24, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


def test_the_adapter_scores_as_the_model_itself_does(preference: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    images, captions = [Drawn(9)[k] for k in range(9)], CAPTIONS
    found = scorers.load("pickscore", {"path": str(preference)})
    batch = torch.stack([found.prepare(image) for image in images])
    model = CLIPModel.from_pretrained(preference).eval()
    inputs = AutoTokenizer.from_pretrained(preference)(captions, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(preference)(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = model(inputs["input_ids"], pixels, inputs["attention_mask"]).logits_per_image.diagonal()
    torch.testing.assert_close(found(batch, captions), wanted, atol=1e-4, rtol=1e-4)
    assert wanted.std() > 0
    assert (found.protocol["name"], len(found.protocol["weights"])) == ("pickscore", 64)


def test_what_is_missing_of_a_scorer_is_named(preference: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean pickscore"):
        scorers.load("pikscore")
    with pytest.raises(ValueError, match="pickscore takes no argument 'folder'"):
        scorers.load("pickscore", {"folder": "x"})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors: a scorer needs"):
        scorers.load("pickscore", {"path": str(tmp_path)})


@pytest.fixture
def registered() -> Iterator[dict[str, Any]]:
    """Scorers of a plug-in, as its module registers them; their behaviour is changed by the values."""
    state: dict[str, Any] = {"calls": 0, "answer": None}

    def brightness(gain: float = 1.0) -> scorers.Scorer:
        def score(images: Sequence[Image.Image], captions: Sequence[str]) -> Any:
            state["calls"] += len(images)
            if state["answer"] is not None:
                return state["answer"](images)
            pairs = zip(images, captions, strict=True)
            return [gain * float(np.asarray(image).mean()) + len(caption) for image, caption in pairs]

        return score

    scorers.register(brightness)
    yield state
    scorers.scorers._factories.pop("brightness")


def test_further_networks_see_the_images_in_the_same_pass_and_alone_say_the_same(
    tmp_path: Path, registered: dict[str, Any]
) -> None:
    images, main, other = Drawn(9), MetricNetworks(Rowsums()), MetricNetworks(Rowsums("other"))
    scorer = MetricNetworks(scorer=scorers.load("brightness", {"gain": 2}))
    more = [(tmp_path / "a@other", other), (tmp_path / "a@brightness", scorer)]
    measure(images, tmp_path / "a", main, captions=CAPTIONS, batch_size=4, more=more)
    assert images.read <= 9 + 3  # once each, and the first one for each layout
    wanted = [2 * np.asarray(images[k]).mean() + len(caption) for k, caption in enumerate(CAPTIONS)]
    np.testing.assert_allclose(Rows.read(tmp_path / "a@brightness").scores(), wanted, rtol=1e-5)
    measure(Drawn(9), tmp_path / "alone", other, batch_size=4)
    assert torch.equal(Rows.read(tmp_path / "a@other").features(), Rows.read(tmp_path / "alone").features())


def test_a_scorer_that_comes_later_measures_only_itself(tmp_path: Path, registered: dict[str, Any]) -> None:
    images = Drawn(9)
    measure(images, tmp_path / "a", MetricNetworks(Rowsums()))
    written = (tmp_path / "a" / "features.npy").stat().st_mtime_ns
    scorer = [(tmp_path / "a@brightness", MetricNetworks(scorer=scorers.load("brightness")))]
    measure(images, tmp_path / "a", MetricNetworks(Rowsums()), captions=CAPTIONS, more=scorer)
    measure(images, tmp_path / "a", MetricNetworks(Rowsums()), captions=CAPTIONS, more=scorer)
    assert registered["calls"] == 9
    assert (tmp_path / "a" / "features.npy").stat().st_mtime_ns == written


def raising(images: Sequence[Image.Image]) -> Any:
    raise KeyError("no such word")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda images: [1.0], r"brightness must return 4 numbers, and returned an array of shape \[1\]"),
        (lambda images: np.zeros((4, 1)), r"returned an array of shape \[4, 1\]"),
        (lambda images: [float("nan")] * 4, "the score by brightness of 0.png is not finite"),
        (lambda images: ["good"] * 4, "the scorer brightness failed: "),
        (raising, "the scorer brightness failed: KeyError: 'no such word'"),
    ],
)
def test_a_scorer_that_is_wrong_loses_nothing(
    tmp_path: Path, registered: dict[str, Any], answer: Any, said: str
) -> None:
    images, more = Drawn(9), [(tmp_path / "a@brightness", MetricNetworks(scorer=scorers.load("brightness")))]
    options: dict[str, Any] = {"captions": CAPTIONS, "batch_size": 4, "more": more}
    registered["answer"] = answer
    with pytest.raises(ValueError, match=said) as caught:
        measure(images, tmp_path / "a", MetricNetworks(Rowsums()), **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="5 of 9 images have not been measured yet"):  # the first block is there
        Rows.read(tmp_path / "a")
    registered["answer"] = None
    measure(images, tmp_path / "a", MetricNetworks(Rowsums()), **options)
    assert len(Rows.read(tmp_path / "a@brightness")) == 9
    with pytest.raises(ValueError, match="there are 8 captions for 9 images"):
        measure(images, tmp_path / "a", MetricNetworks(Rowsums()), **{**options, "captions": CAPTIONS[1:]})


def test_references_of_several_extractors_are_read_once(tmp_path: Path) -> None:
    images, several = Drawn(12), [Rowsums(), Rowsums("other")]
    extract_together(images, several, tmp_path, RULE)
    assert images.read <= 12 + 2
    read = images.read
    found = [reference_statistics(images, extractor, tmp_path, RULE) for extractor in several]
    assert images.read == read
    assert torch.equal(found[0].mean, found[1].mean)
    extract_together(images, several, tmp_path, RULE)
    assert images.read == read


def test_dinov2_prepares_images_as_dgm_eval_does() -> None:
    """Its transform, restated: 224² bicubic whatever the shape, to [0, 1], ImageNet's mean and deviation."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))
    steps = [Resize((224, 224), InterpolationMode.BICUBIC), ToTensor()]
    theirs = Compose([*steps, Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    ours = Dinov2Features(torch.nn.Identity(), 1, {}, torch.device("cpu"))
    torch.testing.assert_close(ours.prepare(image), theirs(image))
