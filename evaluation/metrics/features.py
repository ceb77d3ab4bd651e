"""Feature extractors: torch-fidelity's networks (Inception by default), EfficientNet-Lite0, or the tower of a CLIP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor, nn

from ediffi.evaluation.metrics import dinov2, lite0
from ediffi.evaluation.metrics.clip_score import ClipScorer, load_scorer
from ediffi.evaluation.metrics.networks import network, weights_file
from ediffi.io.files import sha256

DEFAULT = "inception-v3-compat"
CMMD, CMMD_CLIP = "clip-l14-336", "ViT-L-14-336-quickgelu"
"""The CLIP of CMMD's paper: its name as an extractor, and open_clip's, with the activation of OpenAI's weights."""
OWN = (lite0.NAME, CMMD, f"{dinov2.PREFIX}dinov2-vit-l-14")
"""Extractors besides torch-fidelity's: EfficientNet-Lite0, CMMD's CLIP, and DINOv2 as dgm-eval uses it."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """Turns images into rows of `width` numbers.

    `protocol` holds plain JSON values: "name" and "layer" of its library ("inception-v3-compat", "2048"), "weights"
    (SHA-256 of their file), "resize" (in words), "library" (with its version). Rows of equal protocols may be compared.
    """

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def protocol(self) -> Mapping[str, Any]: ...  # noqa: D102

    def prepare(self, image: Image.Image) -> Tensor:
        """One RGB image as the network's input; called in the processes that decode."""
        ...

    def __call__(self, images: Tensor) -> Float32[Tensor, "b d"]:
        """The features of prepared images, on the CPU."""
        ...


@dataclass(frozen=True)
class FidelityFeatures:
    """One of torch-fidelity's networks, with its own resizing: bilinear as in TensorFlow 1, not antialiased.

    Batch normalisation is folded into the convolutions, and on a CPU their weights are channels-last: two thirds of the
    library's own time, and features that differ by less than 1e-6 of the largest. On a GPU convolutions are full
    float32 and deterministic, without TF32 or autocast, so that FID does not depend on the device.
    """

    extractor: nn.Module
    width: int
    protocol: Mapping[str, Any]
    device: torch.device
    head: Float32[Tensor, "c d"] | None = None  # Inception's classifier of these features

    def prepare(self, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
        """The image's bytes, unchanged."""
        from torchvision.transforms.functional import pil_to_tensor

        return pil_to_tensor(image)

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """The features of the images, on the CPU."""
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            return self.extractor(images.to(self.device, non_blocking=True))[0].flatten(1).cpu()


@dataclass(frozen=True)
class ClipFeatures:
    """The image embeddings of an open_clip model, not normalised (Kynkäänniemi et al., arXiv 2203.06026)."""

    clip: ClipScorer
    name: str = "clip"

    @property
    def width(self) -> int:
        """Of the joint embedding space."""
        return self.clip.width

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.clip.device

    @property
    def protocol(self) -> dict[str, Any]:
        """See `FeatureExtractor`."""
        return {
            **self.clip.protocol,
            "name": self.name,
            "layer": "image_embedding",
            "model": self.clip.protocol["name"],
        }

    @property
    def prepare(self) -> Callable[[Image.Image], Tensor]:
        """The image's preparation by open_clip."""
        return self.clip.prepare

    def __call__(self, images: Float32[Tensor, "b 3 s s"]) -> Float32[Tensor, "b d"]:
        """The embeddings of prepared images, on the CPU."""
        return self.clip.embed_images(images)


def load_extractor(
    name: str = DEFAULT, layer: str | None = None, weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> FeatureExtractor:
    """One of torch-fidelity's, or of `OWN`; only tensors are unpickled, and no code is downloaded.

    `layer` is torch-fidelity's choice for FID by default. `weights` is a .safetensors or .pth file, see `weights_file`.
    FileNotFoundError says what to download. ValueError: no such extractor or layer, or a file that is broken or of
    another network.
    """
    if name == lite0.NAME:
        return lite0.load_lite0(weights, device)
    if name.startswith(dinov2.PREFIX):
        return dinov2.load_dinov2(name, weights, device)
    if name == "clip":
        if weights is None:
            raise ValueError("the extractor clip needs a folder with a CLIP as feature_weights (--feature-weights)")
        return ClipFeatures(load_scorer(path=str(weights), device=device, option="feature_weights"))
    if name == CMMD:
        folder, option = None if weights is None else str(weights), f"more_features: {{{CMMD}: FOLDER}} of a suite"
        return ClipFeatures(load_scorer(CMMD_CLIP, "openai", folder, device=device, option=option), CMMD)
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        known = ", ".join(("clip", *OWN, *FEATURE_EXTRACTORS_REGISTRY))
        raise ValueError(f"no feature extractor {name!r}; there are {known}")
    kind = FEATURE_EXTRACTORS_REGISTRY[name]
    layer = layer or kind.get_default_feature_layer_for_metric("fid")
    if layer not in kind.get_provided_features_list():
        raise ValueError(f"{name} has no layer {layer!r}; it has {', '.join(kind.get_provided_features_list())}")
    file = weights_file(name, weights)
    module, place = network(name, layer, file), torch.device(device)
    module.to(place)
    if place.type == "cpu":
        module.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        width = module(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=place))[0].shape[1]
    side = getattr(module, "INPUT_IMAGE_SIZE", None) or getattr(module, "resolution", None)
    protocol = {
        "name": name,
        "layer": layer,
        "weights": sha256(file),
        "resize": f"{side}x{side}, bilinear as in TensorFlow 1, not antialiased",
        "library": f"torch-fidelity {version('torch-fidelity')}",
    }
    head = module.get_parameter("fc.weight").detach().cpu() if (name, layer) == (DEFAULT, "2048") else None
    return FidelityFeatures(module, width, protocol, place, head)
