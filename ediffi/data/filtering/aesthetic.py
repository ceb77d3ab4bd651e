"""How pleasing an image is, predicted from its CLIP embedding by a small pretrained head.

Two heads are public. Both read embeddings of OpenAI's CLIP ViT-L/14, normalized to length 1, and predict a score from
about 1 to 10: LAION's linear head (github.com/LAION-AI/aesthetic-predictor), and the one of LAION-Aesthetics v2: five
linear layers without activations (github.com/christophschuhmann/improved-aesthetic-predictor, "linearMSE").
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ediffi.registry.core import HUB_ID
from ediffi.registry.encoders.folder import from_hub, unavailable

WEIGHTS = "model.safetensors"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
HIDDEN = (1024, 128, 64, 16)
LAYERS = (0, 2, 4, 6, 7)  # indices of the five linear layers; between them was dropout, which does nothing here


def load_head(source: str | Path, revision: str | None = None) -> nn.Sequential:
    """The head of a `.safetensors` file, a folder or a Hub repository: `head(embedding [b, d] of length 1) -> score [b,
    1]`.

    FileNotFoundError: no such file. ValueError: it is a pickle, broken, or holds another network than the two.
    """
    path = find_head(source, revision)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from None
    bare = {name.removeprefix("layers."): tensor for name, tensor in tensors.items()}
    head = None
    if set(tensors) == {"weight", "bias"}:
        head = _chain([(tensors["weight"], tensors["bias"])], (1,))
    elif set(bare) == {f"{layer}.{what}" for layer in LAYERS for what in ("weight", "bias")}:
        head = _chain([(bare[f"{layer}.weight"], bare[f"{layer}.bias"]) for layer in LAYERS], (*HIDDEN, 1))
    if head is None:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(tensors.items())[:4])
        raise ValueError(
            f"{path} holds no aesthetic head: expected weight [1, d] and bias [1], or five layers of "
            f"{', '.join(map(str, HIDDEN))} and 1; found {found or 'nothing'}{', ...' if len(tensors) > 4 else ''}"
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError(f"{path} holds weights that are not finite")
    return head.float().eval().requires_grad_(False)


def find_head(source: str | Path, revision: str | None = None) -> Path:
    """The file with the weights; errors as `load_head`."""
    path = Path(source)
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which may run code and is not read: convert it once, where you trust it, by "
            f"safetensors.torch.save_file(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')"
        )
    if path.is_dir():
        path = path / WEIGHTS
    elif not path.exists() and path.suffix != ".safetensors" and HUB_ID.fullmatch(str(source)):
        try:
            path = from_hub(str(source), revision, [WEIGHTS]) / WEIGHTS
        except OSError as error:
            advice = f"where there is a network, download its {WEIGHTS}, and give the file"
            raise unavailable(f"the aesthetic head {str(source)!r}", revision, error, advice) from error
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: expected the weights of an aesthetic head, as safetensors")
    return path


def _chain(layers: list[tuple[Tensor, Tensor]], widths: tuple[int, ...]) -> nn.Sequential | None:
    """Linear layers of these widths; None if the shapes are others."""
    incoming = layers[0][0].shape[-1]
    made: list[nn.Linear] = []
    for (weight, bias), width in zip(layers, widths, strict=True):
        if weight.shape != (width, incoming) or bias.shape != (width,):
            return None
        layer = nn.Linear(incoming, width)
        layer.load_state_dict({"weight": weight, "bias": bias})
        made.append(layer)
        incoming = width
    return nn.Sequential(*made)
