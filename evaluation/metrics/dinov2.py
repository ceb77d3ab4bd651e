"""DINOv2 as dgm-eval prepares its images, for FD-DINOv2 (Stein et al., arXiv 2306.04675)."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor, nn

from ediffi.evaluation.metrics.networks import DINOV2, network, weights_file
from ediffi.io.files import sha256

PREFIX: Final = "dgm-"
SIZE: Final = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Dinov2Features:
    """The class token after the last norm; a `FeatureExtractor`. torch-fidelity's own resizes as TensorFlow 1 does."""

    network: nn.Module
    width: int
    protocol: Mapping[str, Any]
    device: torch.device

    def prepare(self, image: Image.Image) -> Float32[Tensor, "3 224 224"]:
        """The image resized by Pillow (bicubic, antialiased) to 224² whatever its shape, and normalised."""
        from torchvision.transforms.functional import normalize, to_tensor

        return normalize(to_tensor(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)), MEAN, STD)

    def __call__(self, images: Float32[Tensor, "b 3 224 224"]) -> Float32[Tensor, "b d"]:
        """The features of prepared images, on the CPU."""
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            return self.network(images.to(self.device, non_blocking=True)).float().cpu()


def load_dinov2(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> Dinov2Features:
    """The extractor "dgm-dinov2-vit-l-14", or of another size; weights as `weights_file` finds them.

    ValueError: there is no such size, or the file is broken or of another network.
    """
    plain = name.removeprefix(PREFIX)
    if plain not in DINOV2:
        raise ValueError(f"no feature extractor {name!r}; there are {', '.join(PREFIX + known for known in DINOV2)}")
    file, place = weights_file(plain, weights), torch.device(device)
    model = network(plain, "dinov2", file).get_submodule("model").to(place)
    with torch.inference_mode():
        width = model(torch.zeros(1, 3, SIZE, SIZE, device=place)).shape[1]
    protocol = {
        "name": name,
        "layer": "class_token",
        "weights": sha256(file),
        "resize": f"{SIZE}x{SIZE}, bicubic, antialiased by Pillow",
        "library": f"timm {version('timm')}",
    }
    return Dinov2Features(model, width, protocol, place)
