"""Weights of torch-fidelity's feature extractors: found, downloaded, read; only tensors are unpickled."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ediffi.io.files import sha256
from ediffi.registry.encoders.clip_files import PINNED
from ediffi.registry.encoders.clip_files import WEIGHTS as CLIP_WEIGHTS
from ediffi.registry.encoders.folder import from_hub

DINOV2 = {f"dinov2-vit-{size[0]}-14": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")}
"""Names of torch-fidelity's DINOv2 extractors and of the same networks in timm."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def weights_file(name: str, path: str | Path | None = None) -> Path:
    """The file with an extractor's weights: `path`, or the one in torch.hub's cache ("clip-*" and "dinov2-*": the Hub's
    cache).

    It is downloaded if it is not there, except with HF_HUB_OFFLINE=1. FileNotFoundError says what to download.
    ValueError: the cached file does not have its hash.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {str(path)!r} with weights of {name}")
        return Path(path)
    return _from_hub(name) if name.startswith(("clip-", "dinov2-")) else _from_torch_hub(name)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file: a .safetensors file, or one that `torch.load(weights_only=True)` reads.

    ValueError: it is broken, holds more than tensors, or holds code, as a TorchScript archive does.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is truncated or not a safetensors file ({error})") from None
    except Exception as error:  # the unpickler and the archive reader raise many types at foreign files
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{str(path)!r} cannot be read as a file of tensors only ({reason})") from None
    if not isinstance(content, dict) or not all(isinstance(part, Tensor) for part in content.values()):
        raise ValueError(f"{str(path)!r} must hold a dictionary of tensors and nothing else")
    return dict(content)


def _from_torch_hub(name: str) -> Path:
    """The file that the library which defines the network names by URL; its name contains its hash."""
    import torch

    if name == "vgg16":
        from torchvision.models import VGG16_Weights

        url = str(VGG16_Weights.IMAGENET1K_V1.url)
    else:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        url = str(URL_INCEPTION_V3)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    file = cache / url.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    prefix = match.group(1) if match else ""
    for candidate in (file, cache / file.name.replace("weights-", "pt_")):  # the latter is pytorch-fid's, the same file
        if candidate.is_file():
            if not sha256(candidate).startswith(prefix):
                raise ValueError(f"{str(candidate)!r} is damaged: its SHA-256 does not begin with {prefix}")
            return candidate

    def download() -> Path:
        offline = next((name for name in OFFLINE if os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}), "")
        if offline:
            raise OSError(f"{offline} is set")
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix)
        return file

    return _downloaded(name, url, download)


def open_clip_name(name: str) -> str:
    """open_clip's name of the network of a "clip-*" extractor: "clip-vit-b-32" is ViT-B-32."""
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA

    if name not in MODEL_METADATA:
        raise ValueError(f"no feature extractor {name!r}; there are {', '.join(MODEL_METADATA)}")
    return str(MODEL_METADATA[name]["filename"]).replace("px", "")


def _from_hub(name: str) -> Path:
    """The Hub's file of the same weights as safetensors; its cache is used offline too."""
    if name in DINOV2:
        import timm

        repository, file = str(timm.get_pretrained_cfg_value(DINOV2[name], "hf_hub_id")), "model.safetensors"
    else:
        import open_clip

        config = open_clip.get_pretrained_cfg(open_clip_name(name), "openai")
        repository, file = config["hf_hub"].rstrip("/"), CLIP_WEIGHTS

    def download() -> Path:
        found = from_hub(repository, PINNED.get(repository), [file]) / file
        if not found.is_file():
            raise OSError(f"the Hub's {repository} has no {file}")
        return found

    return _downloaded(name, f"{file} of the Hub's {repository}", download)


def _downloaded(name: str, source: str, download: Callable[[], Path]) -> Path:
    try:
        return download()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")[:160]
        advice = f"download {source} and give the file as feature_weights"
        raise FileNotFoundError(f"no weights of {name} ({reason}): {advice}") from None
