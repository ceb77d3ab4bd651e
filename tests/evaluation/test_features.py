"""Feature extractors: torch-fidelity's own forward on the same weights, and its own metrics of two folders."""

import json
import math
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import inception_v3, resnet18, vgg16

from ediffi.evaluation.images.numbered import ImageFolder
from ediffi.evaluation.metrics import networks
from ediffi.evaluation.metrics.features import FidelityFeatures, load_extractor
from ediffi.evaluation.metrics.networks import read_tensors
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.reference import reference_statistics
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.metrics.summary import frechet_name, summarise
from ediffi.io.files import sha256

INCEPTION = "inception-v3-compat"


def drawn(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a size that lets features differ, as training would leave them, and nothing downloaded."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return {name: part.contiguous() for name, part in model.state_dict().items()}


@pytest.fixture(scope="module")
def inception(new_folder: Callable[[str], Path]) -> Path:
    """Randomly initialised weights with the names and shapes of torch-fidelity's, in its own format."""
    torch.manual_seed(0)
    model = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    path = new_folder("inception") / "inception.pth"
    torch.save(drawn(model), path)
    return path


@pytest.fixture(scope="module")
def extractor(inception: Path) -> FidelityFeatures:
    return load_extractor(weights=inception)


def pictures(count: int, seed: int, size: tuple[int, int] = (40, 32)) -> list[Image.Image]:
    """Blurred noise of a few colours: pictures that differ in more than their noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 5, 3)).clip(0, 255 - 40 * seed).astype(np.uint8)
    return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one in coarse]


def folder(path: Path, images: list[Image.Image]) -> ImageFolder:
    path.mkdir()
    for number, image in enumerate(images):
        image.save(path / f"{number:03}.png")
    return ImageFolder(path, sorted(file.name for file in path.iterdir()))


def batch(extractor: Any, images: list[Image.Image]) -> Tensor:
    return torch.stack([extractor.prepare(image) for image in images])


def judged(made: ImageFolder, real: ImageFolder, extractor: Any, path: Path, **options: Any) -> Mapping[str, float]:
    """Our metrics of two sets, by the public way."""
    reference = reference_statistics(real, extractor, path / "cache", {}, **options)
    measure(made, path / "pass", MetricNetworks(extractor), **options)
    return summarise(Rows.read(path / "pass"), extractor, reference).metrics


def theirs(made: Path, real: Path, weights: Path, layer: str, subset: int) -> dict[str, float]:
    import torch_fidelity

    found = torch_fidelity.calculate_metrics(
        input1=str(made),
        input2=str(real),
        cuda=False,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(weights),
        **{f"feature_layer_{metric}": layer for metric in ("fid", "kid", "prc")},
        kid_subset_size=subset,
        batch_size=8,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    names = {
        "fid": "frechet_inception_distance",
        "kid_mean": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
    }
    return {name: found[names.get(name, name)] for name in (*names, "precision", "recall", "f_score")}


@pytest.mark.parametrize(
    ("layer", "count"), [("192", 12), pytest.param("2048", 64, marks=pytest.mark.slow)], ids=["192", "2048"]
)
def test_torch_fidelity_agrees_end_to_end(tmp_path: Path, inception: Path, layer: str, count: int) -> None:
    """Two folders of PNGs and one weights file, to all metrics; the covariances have not full rank."""
    made, real = folder(tmp_path / "made", pictures(count, 1)), folder(tmp_path / "real", pictures(count, 2))
    extractor = load_extractor(layer=layer, weights=inception)
    found = dict(judged(made, real, extractor, tmp_path, batch_size=8))
    wanted = theirs(tmp_path / "made", tmp_path / "real", inception, layer, count)
    assert found.pop(frechet_name(extractor)) == pytest.approx(wanted.pop("fid"), rel=2e-6)
    more = {"density", "coverage", "authenticity", "vendi"} | ({"inception_score"} if layer == "2048" else set())
    assert found.keys() == wanted.keys() | more
    assert found["kid_mean"] == pytest.approx(wanted["kid_mean"], rel=2e-5)
    assert math.isnan(found["kid_std"])  # each of the 100 subsets is all pictures, in another order
    assert wanted["kid_std"] < 1e-5 * abs(wanted["kid_mean"])
    for name in ("precision", "recall", "f_score"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-7)  # their mean is in float32


def test_features_are_torch_fidelitys_own(extractor: FidelityFeatures, inception: Path) -> None:
    """Folded, channels last and in inference mode, against the library's own constructor and call."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    own = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(inception))
    prepared = batch(extractor, pictures(3, 0, (64, 48)))
    assert prepared.shape == (3, 3, 48, 64)
    with torch.no_grad():
        (wanted,) = own(prepared)
    found = extractor(prepared)
    assert (found - wanted).abs().max() < 3e-6 * wanted.abs().max()
    assert (extractor.width, found.dtype, frechet_name(extractor)) == (2048, torch.float32, "fid")


def test_bytes_are_not_changed_on_the_way(extractor: FidelityFeatures) -> None:
    image = pictures(1, 0)[0]
    assert np.array_equal(extractor.prepare(image).permute(1, 2, 0).numpy(), np.asarray(image))


def test_the_protocol_says_what_made_the_features(extractor: FidelityFeatures, inception: Path) -> None:
    assert json.loads(json.dumps(extractor.protocol)) == extractor.protocol
    assert extractor.protocol["weights"] == sha256(inception)
    assert extractor.protocol["resize"].startswith("299x299, bilinear as in TensorFlow 1")
    assert extractor.protocol["library"].startswith("torch-fidelity 0.")


def test_weights_may_be_safetensors(extractor: FidelityFeatures, inception: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(read_tensors(inception), file)
    other = load_extractor(layer="192", weights=file)
    prepared = batch(other, pictures(2, 0))
    assert other(prepared).shape == (2, other.width) == (2, 192)
    assert frechet_name(other) == "frechet_inception-v3-compat_192"
    weights = (network.extractor.parameters() for network in (other, extractor))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.slow
def test_vgg16_is_torch_fidelitys_own(tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    file = tmp_path / "vgg16.pth"
    with torch.device("meta"):
        shapes = vgg16().state_dict()
    torch.save(
        {name: torch.randn(part.shape).mul_((2 / part[0].numel()) ** 0.5) for name, part in shapes.items()}, file
    )
    own = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(file))
    found = load_extractor("vgg16", weights=file)
    prepared = batch(found, pictures(1, 0))
    with torch.no_grad():
        (wanted,) = own(prepared)
    assert (found(prepared) - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.slow
def test_clip_is_open_clips_picture_tower(tmp_path: Path) -> None:
    """torch-fidelity's own file is a TorchScript archive; its network takes open_clip's tensors instead."""
    settings = open_clip.get_model_config("ViT-B-32")
    model = open_clip.CLIP(**settings, quick_gelu=True).eval()
    with torch.no_grad():
        for part in model.visual.parameters():
            part.copy_(part.half())  # as OpenAI published them
    file = tmp_path / "clip.safetensors"
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, file)
    found = load_extractor("clip-vit-b-32", weights=file)
    prepared = batch(found, pictures(2, 0, (224, 224)))  # no resizing, which is where the two differ
    mean, std = (torch.tensor(open_clip.get_pretrained_cfg("ViT-B-32", "openai")[name]) for name in ("mean", "std"))
    with torch.no_grad():
        wanted = model.encode_image((prepared / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert (found(prepared) - wanted).abs().max() < 2e-5 * wanted.abs().max()
    assert frechet_name(found) == "frechet_clip-vit-b-32"
    with pytest.raises(
        ValueError, match=r"holds no weights of clip-vit-b-16: visual.* is \[50, 768\], not \[197, 768\]"
    ):
        load_extractor("clip-vit-b-16", weights=file)


@pytest.mark.slow
def test_dinov2_is_transformers_own(tmp_path: Path) -> None:
    """Meta's file has positions for 37² patches and a mask token. transformers' network is an independent one."""
    from transformers import Dinov2Config, Dinov2Model

    peer = Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224, patch_size=14)).eval()
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, pretrained=False)
    tensors = {**model.state_dict(), "mask_token": torch.zeros(1, 384)}
    tensors |= {name: torch.rand_like(part) for name, part in tensors.items() if name.endswith("gamma")}
    file = tmp_path / "dinov2.pth"
    torch.save(tensors, file)
    found = load_extractor("dinov2-vit-s-14", weights=file)
    square = Image.fromarray(np.random.default_rng(1).integers(0, 256, (224, 224, 3), np.uint8))
    dgm = load_extractor("dgm-dinov2-vit-s-14", weights=file)  # without a change of size both prepare alike
    one, other = (extractor(extractor.prepare(square)[None]) for extractor in (found, dgm))
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    peer.load_state_dict(_in_transformers(tensors, networks.resized_positions(tensors["pos_embed"], 16)), strict=True)
    prepared = batch(found, pictures(1, 0, (224, 224)))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        wanted = peer((prepared / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)).pooler_output
    torch.testing.assert_close(found(prepared), wanted, atol=2e-5, rtol=1e-4)


def _in_transformers(tensors: dict[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
    names = {
        "blocks.": "encoder.layer.",
        ".attn.proj.": ".attention.o_proj.",
        ".ls1.gamma": ".layer_scale1.lambda1",
        ".ls2.gamma": ".layer_scale2.lambda1",
        "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
    }
    renamed = {"embeddings.position_embeddings": positions}
    for name, part in tensors.items():
        if name == "pos_embed":
            continue
        for ours, peers in names.items():
            name = name.replace(ours, peers)
        name = f"layernorm.{name.removeprefix('norm.')}" if name.startswith("norm.") else name
        if ".attn.qkv." in name:
            for which, third in zip("qkv", part.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.{which}_proj.")] = third
        else:
            renamed[name] = part
    return renamed


def test_positions_are_resized_by_dinov2s_rule() -> None:
    """Against the same points read off the grid one by one: (i + ½) 37 / 16.1 - ½, the border repeated."""
    positions = torch.randn(1, 1 + 37**2, 5)
    resized = networks.resized_positions(positions, 16)
    at = ((torch.arange(16) + 0.5) * 37 / 16.1) * 2 / 37 - 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)[None]
    patches = positions[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    wanted = functional.grid_sample(patches, grid, mode="bicubic", padding_mode="border", align_corners=False)
    torch.testing.assert_close(resized[:, 1:].unflatten(1, (16, 16)).permute(0, 3, 1, 2), wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(resized[:, 0], positions[:, 0])
    assert torch.equal(networks.resized_positions(resized, 16), resized)


def test_weights_of_another_network_are_refused(tmp_path: Path, inception: Path) -> None:
    other = tmp_path / "resnet.pth"
    torch.save(resnet18().state_dict(), other)
    with pytest.raises(ValueError, match=r"resnet.pth' holds no weights of inception-v3-compat: Missing key") as caught:
        load_extractor(weights=other)
    assert "\n" not in str(caught.value)
    file = tmp_path / "small.pth"
    torch.save(read_tensors(inception) | {"fc.weight": torch.zeros(1000, 2048)}, file)
    with pytest.raises(ValueError, match=r"small.pth' holds no weights of inception-v3-compat: size mismatch for fc"):
        load_extractor(weights=file)
    with pytest.raises(ValueError, match=r"holds no weights of dinov2-vit-s-14: it has no cls_token"):
        load_extractor("dinov2-vit-s-14", weights=inception)
    with pytest.raises(ValueError, match=r"holds no weights of clip-rn50: it has no"):
        load_extractor("clip-rn50", weights=inception)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("harm.txt", "w"))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Harm()}, "harm.pth")
    with pytest.raises(ValueError, match=r"harm.pth holds code"):
        load_extractor(weights="harm.pth")
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"hello"),
        ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("zip.pth", b"PK\3\4ab"),
    ],
)
def test_broken_weights_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        load_extractor(weights=tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, torch.zeros(2)])
def test_more_than_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"checkpoint.pth' must hold a dictionary of tensors"):
        load_extractor(weights=tmp_path / "checkpoint.pth")


@pytest.mark.parametrize("name", [INCEPTION, "vgg16", "clip-rn50", "clip-vit-l-14-336px", "dinov2-vit-g-14"])
def test_what_is_not_there_says_what_to_fetch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a network was asked, though HF_HUB_OFFLINE is set")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sentence = rf"no weights of {name}.*download .*\w+\.(pth|safetensors).* as feature_weights"
    with pytest.raises(FileNotFoundError, match=sentence) as caught:
        load_extractor(name)
    assert name not in {INCEPTION, "vgg16"} or "HF_HUB_OFFLINE is set" in str(caught.value)


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", "http://127.0.0.1:9/a-6726825d.pth"
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(FileNotFoundError, match=r"no weights of inception-v3-compat \(.*refused.*\): download http"):
        load_extractor()


def test_a_kept_file_is_what_its_name_says(tmp_path: Path, inception: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    prefix = sha256(inception)[:8]
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", f"http://127.0.0.1:9/w-{prefix}.pth"
    )
    kept = tmp_path / "checkpoints" / f"w-{prefix}.pth"
    kept.parent.mkdir()
    kept.write_bytes(inception.read_bytes())
    assert load_extractor().protocol["weights"] == sha256(inception)
    kept.write_bytes(b"cut")
    with pytest.raises(ValueError, match=rf"is damaged: its SHA-256 does not begin with {prefix}"):
        load_extractor()


def test_unknown_names_list_what_there_is(inception: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"no feature extractor 'inception'; there are clip, efficientnet-lite0, .*inception-v3-compat, vgg16",
    ):
        load_extractor("inception")
    with pytest.raises(ValueError, match="has no layer '512'; it has 64, 192, 768, 2048"):
        load_extractor(layer="512", weights=inception)
    with pytest.raises(FileNotFoundError, match=r"no file .nowhere\.pth. with weights of vgg16"):
        load_extractor("vgg16", weights="nowhere.pth")
