"""LPIPS diversity: how much two images of a system differ, as a network that was tuned to people's judgements says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor, nn

from ediffi.evaluation.metrics.networks import read_tensors, weights_file
from ediffi.evaluation.scorers.named import register
from ediffi.io.files import sha256

BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""LPIPS' names of the networks, and torchvision's."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS of pairs of images. Its linear layers, version 0.1, come with torchmetrics."""

    pairs: ClassVar[bool] = True
    network: nn.Module
    protocol: Mapping[str, Any]
    device: torch.device

    def __call__(self, images: Sequence[Image.Image], others: Sequence[Image.Image]) -> Float32[Tensor, " b"]:
        """The distance of each image to the other one; 0 for equal images."""
        from torchvision.transforms.functional import to_tensor

        with torch.inference_mode():
            first, second = (
                torch.stack([to_tensor(image) for image in part]).to(self.device) for part in (images, others)
            )
            return self.network(first, second, normalize=True).flatten().cpu()


@register
def lpips_diversity(net: str = "alex", weights: str | None = None, device: str = "cpu") -> Lpips:
    """The mean LPIPS (Zhang et al., arXiv 1801.03924) of pairs of images: of one caption where every caption has
    several, otherwise of any two of the set.

    Args:
        net: the network below: alex, vgg or squeeze.
        weights: a file with torchvision's weights of it for ImageNet; by default that of torch.hub's cache, which is
            filled if the network can be reached.
        device: where it runs.

    Raises:
        FileNotFoundError: no weights; the message says what to download.
        ValueError: no such net, or a file with other weights.
    """
    from torchmetrics.functional.image.lpips import _LPIPS

    if net not in BACKBONES:
        raise ValueError(f"net must be one of {', '.join(BACKBONES)}, got {net!r}")
    option = (
        f"weights (in a suite, scorers: {{lpips_diversity: {{net: {net}, weights: FILE}}}}); the Vendi score with "
        "--more-features efficientnet-lite0 measures variety without a download"
    )
    file = weights_file(BACKBONES[net], weights, option)
    tensors, network = read_tensors(file), _LPIPS(net=net, pnet_rand=True)  # type: ignore[arg-type]
    own = network.net.state_dict()
    found = {key: tensors.get(f"features.{key.partition('.')[2]}") for key in own}
    if net == "squeeze":
        found = {key: tensors.get(f"features.{key.split('.', 2)[2]}") for key in own}
    for key, tensor in found.items():
        if tensor is None or tensor.shape != own[key].shape:
            raise ValueError(f"{str(file)!r} holds no weights of {BACKBONES[net]}: it has no such {key}")
    network.net.load_state_dict(found)
    protocol = {
        "net": net,
        "weights": sha256(file),
        "library": f"torchmetrics {version('torchmetrics')}",
    }
    return Lpips(network.eval().requires_grad_(False).to(device), protocol, torch.device(device))
