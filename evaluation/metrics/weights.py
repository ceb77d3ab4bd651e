"""Weights of torch-fidelity's feature extractors: found, fetched, read; nothing but tensors is unpickled."""

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
OPTION = "feature_weights"


def weights_file(name: str, path: str | Path | None = None) -> Path:
    """The file with an extractor's weights.

    Args:
        name: one of torch-fidelity's extractors.
        path: the file, where it is yours. Otherwise it is looked for where torch.hub keeps what it downloaded (for
            "clip-*" and "dinov2-*": the Hub's cache), and fetched if it is not there; with HF_HUB_OFFLINE=1 it is not.

    Raises:
        FileNotFoundError: it is neither there nor to be had; the message says what to fetch.
        ValueError: what is kept as the file is another.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {str(path)!r} with weights of {name}")
        return Path(path)
    if name.startswith(("clip-", "dinov2-")):
        return _of_the_hub(name, *_repository(name))
    return _of_torch_hub(name, _url(name))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file: a .safetensors file, or anything that `torch.load(weights_only=True)` takes.

    Raises:
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
    except Exception as error:  # whatever the unpickler and the archive reader raise at what is not theirs
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{str(path)!r} cannot be read as a file of tensors alone ({reason})") from None
    if not isinstance(content, dict) or not all(isinstance(part, Tensor) for part in content.values()):
        raise ValueError(f"{str(path)!r} should hold names with tensors, and nothing else")
    return dict(content)


def _url(name: str) -> str:
    """Where the file of a network is, as the library that defines the network says; the name ends in its hash."""
    if name == "vgg16":
        from torchvision.models import VGG16_Weights

        return str(VGG16_Weights.IMAGENET1K_V1.url)
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return str(URL_INCEPTION_V3)


def _of_torch_hub(name: str, url: str) -> Path:
    import torch

    kept = Path(torch.hub.get_dir()) / "checkpoints"
    file = kept / url.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    prefix = match.group(1) if match else ""
    for candidate in (file, kept / file.name.replace("weights-", "pt_")):  # the latter is pytorch-fid's, the same file
        if candidate.is_file():
            if not sha256(candidate).startswith(prefix):
                raise ValueError(f"{str(candidate)!r} is not what its name says: its SHA-256 does not begin {prefix}")
            return candidate
    advice = f"download {url} and give the file as {OPTION}"

    def fetch() -> None:
        kept.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix)

    _fetched(name, advice, fetch)
    return file


def _repository(name: str) -> tuple[str, str]:
    """The Hub's repository with an extractor's weights as safetensors, and the file in it."""
    if name in DINOV2:
        import timm

        return str(timm.get_pretrained_cfg_value(DINOV2[name], "hf_hub_id")), "model.safetensors"
    import open_clip

    return open_clip.get_pretrained_cfg(open_clip_name(name), "openai")["hf_hub"].rstrip("/"), CLIP_WEIGHTS


def open_clip_name(name: str) -> str:
    """open_clip's name of the network of a "clip-*" extractor: "clip-vit-b-32" is ViT-B-32.

    Raises:
        ValueError: torch-fidelity has no such extractor.
    """
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA

    if name not in MODEL_METADATA:
        raise ValueError(f"no feature extractor {name!r}; there are {', '.join(MODEL_METADATA)}")
    return str(MODEL_METADATA[name]["filename"]).replace("px", "")


def _of_the_hub(name: str, repository: str, file: str) -> Path:
    found: list[Path] = []
    advice = f"download {file} of the Hub's {repository} and give the file as {OPTION}"
    _fetched(name, advice, lambda: found.append(from_hub(repository, PINNED.get(repository), [file]) / file), hub=True)
    if not found[0].is_file():
        raise FileNotFoundError(f"no weights of {name} in the Hub's {repository}: {advice}")
    return found[0]


def _fetched(name: str, advice: str, fetch: Callable[[], object], hub: bool = False) -> None:
    """Fetch, and say in one sentence why that did not work; what has a cache of its own is asked even offline."""
    offline = next((name for name in OFFLINE if os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}), None)
    if offline and not hub:
        raise FileNotFoundError(f"no weights of {name}, and {offline} forbids to fetch them: {advice}")
    try:
        fetch()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")[:160]
        raise FileNotFoundError(f"no weights of {name} ({reason}): {advice}") from None
