"""What encoders declare: it is true of the built ones, and a plug-in's encoder counts wherever ours do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from ediffi.diffusion.guidance import ClassifierFreeGuidance
from ediffi.registry import denoisers, encoders
from ediffi.registry.encoders import EncoderSizes, EncoderSpec, declares
from ediffi.registry.types import Conditioning, Embedding
from ediffi.training.estimate.params import EncoderParameters, count
from ediffi.training.estimate.plan import embedding_bytes
from ediffi.training.estimate.workload import _conditioning

SHIPPED = Path(encoders.__file__).parents[2] / "weights" / "toybox" / "encoders"
FOLDERS = {"t5": "t5", "clip_text": "clip", "clip_image": "clip"}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_declared_is_true_of_the_built_encoder(name: str) -> None:
    path = str(SHIPPED / FOLDERS[name])
    spec, encoder = encoders.spec(name), encoders.create(name, path=path)
    assert spec.source == name
    assert (spec.reads == "text") == encoders.reads_text(encoder)
    assert spec.sizes is not None
    sizes = spec.sizes(path=path)
    assert (sizes.width, sizes.pooled_width) == (encoder.width, encoder.pooled_width)  # type: ignore[attr-defined]


def test_the_paper_s_declarations() -> None:
    """eDiff-I, section 4.2: 113 tokens of T5, 77 of CLIP, and the rates of dropping each."""
    found = {name: encoders.spec(name) for name in ("t5_xxl", "clip_l14_text", "clip_l14_image")}
    assert {spec.source: (spec.max_tokens, spec.dropout) for spec in found.values()} == {
        "t5": (113, 0.25),
        "clip_text": (77, 0.2),
        "clip_image": (1, 0.9),
    }
    sizes = {
        name: spec.sizes(path=None if "clip" in name else "google/t5-v1_1-xxl")
        for name, spec in found.items()
        if spec.sizes
    }
    assert {name: (one.width, one.pooled_width) for name, one in sizes.items()} == {
        "t5_xxl": (4096, None),
        "clip_l14_text": (768, 768),
        "clip_l14_image": (768, 768),
    }
    assert [encoders.dropout(source) for source in ("clip_text", "t5", "clip_image")] == [0.2, 0.25, 0.9]


def test_where_the_weights_come_from() -> None:
    weights = encoders.spec("clip_l14_text").weights
    assert weights is not None
    assert weights("openai", None, None) == (
        "timm/vit_large_patch14_clip_224.openai",
        "18d0535469bb561bf468d76c1d73aa35156c922b",
    )
    assert weights("openai", "someone/clip", None) == ("someone/clip", None)
    assert weights("openai", None, "v2")[1] == "v2"


# A plug-in's encoder, registered as an entry point would


class Sketches(nn.Module):
    """Reads images."""

    width, pooled_width = 6, 6

    def forward(self, images: Tensor) -> Embedding:
        mean = images.mean((2, 3)).repeat(1, 2)
        return Embedding(mean[:, None], torch.ones(len(images), 1, dtype=torch.bool), mean)


@declares(
    EncoderSpec("sketch", "image", 3, caption_tokens=2, dropout=0.7, sizes=lambda scale: EncoderSizes(5 * scale, 6))
)
def sketches(scale: int = 2) -> Sketches:
    """A reader of images that a plug-in brings."""
    return Sketches()


def undeclared() -> Sketches:
    """An encoder without a declaration."""
    return Sketches()


@pytest.fixture
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for factory in (sketches, undeclared):
            patch.setitem(encoders.REGISTRY._factories, factory.__name__, factory)
        yield


@pytest.mark.usefixtures("_registered")
def test_it_counts_in_params(tmp_path: Path) -> None:
    def counting(name: str, **arguments: Any) -> Any:
        parts = {"sketch": {"name": name, "arguments": arguments}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"name": "m", "encoder_parts": parts, "stages": []}))
        return count(tmp_path / "c.yaml")

    counted = counting("sketches", scale=4)
    assert isinstance(counted, EncoderParameters)
    assert counted.texts == []
    assert counted.images == [("sketches", 20)]
    with pytest.raises(ValueError, match="undeclared declares no sizes"):
        counting("undeclared")


@pytest.mark.usefixtures("_registered")
def test_it_counts_in_plan() -> None:
    with torch.device("meta"):
        denoiser = denoisers.create("unet_toybox", tokens={"sketch": 6, "nobody's": 6}, pooled={"sketch": 6})
    assert embedding_bytes(denoiser) == 2 * (2 * 6 + 20 * 6 + 6)
    told = _conditioning(denoiser, 1, None, "meta")
    assert {name: source.tokens.shape[1] for name, source in told.sources.items()} == {"sketch": 3, "nobody's": 113}


@pytest.mark.usefixtures("_registered")
def test_it_counts_in_guidance() -> None:
    """The style scale turns every source that reads images: uncond + w (words - uncond) + w s (all - words)."""

    def source(value: float) -> Embedding:
        return Embedding(torch.full((1, 1, 1), value), torch.ones(1, 1, dtype=torch.bool))

    def summed(x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        return sum(one.tokens.view(-1, 1, 1, 1) for one in cond.sources.values()) + torch.zeros_like(x)

    cond = Conditioning({"t5": source(1.0), "sketch": source(10.0), "clip_image": source(100.0)})
    guided = ClassifierFreeGuidance(summed, 3.0, style_scale=0.5)(torch.zeros(1, 3, 2, 2), torch.ones(1), cond)
    torch.testing.assert_close(guided, torch.full((1, 3, 2, 2), 3.0 * 1 + 3.0 * 0.5 * 110))


@pytest.mark.usefixtures("_registered")
def test_it_counts_in_dropout() -> None:
    assert encoders.dropout("sketch") == 0.7
    assert encoders.dropout("undeclared") == encoders.dropout("of_nobody") == 0.25, "as text"


@pytest.mark.usefixtures("_registered")
def test_a_source_is_declared_by_its_encoder_or_counts_as_t5() -> None:
    assert encoders.spec_of_source("sketch") == encoders.spec("sketches")
    for unknown in ("undeclared", "nobody's"):
        assert encoders.spec_of_source(unknown) == EncoderSpec(unknown, "text", 113, 20, None)
