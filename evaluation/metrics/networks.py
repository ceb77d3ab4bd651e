"""torch-fidelity's networks and their weights: only tensors are unpickled, and no code is downloaded."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ediffi.io import pickles
from ediffi.io.files import sha256
from ediffi.registry.encoders.clip_files import PINNED, WEIGHTS
from ediffi.registry.encoders.folder import from_hub

DINOV2 = {f"dinov2-vit-{size[0]}-14": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")}
"""Names of torch-fidelity's DINOv2 extractors and of the same networks in timm."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PATCHES = 16
"""DINOv2 reads 224² images in 16 x 16 patches of 14²."""


def weights_file(
    name: str, path: str | Path | None = None, option: str = "feature_weights (--feature-weights)"
) -> Path:
    """The file with a network's weights: `path`, or the one in torch.hub's cache ("clip-*", "dinov2-*": the Hub's).

    `option` is what takes a path, in messages. It is downloaded if it is not there, except with HF_HUB_OFFLINE=1.
    FileNotFoundError says what to download.
    ValueError: the cached file does not have its hash.
    """
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {str(path)!r} with weights of {name}")
        return Path(path)
    source, find = _hub_file(name) if name.startswith(("clip-", "dinov2-")) else _torch_hub_file(name)
    try:
        return find()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")[:160]
        advice = f"download {source} and give the file as {option}"
        raise FileNotFoundError(f"no weights of {name} ({reason}): {advice}") from None


def _torch_hub_file(name: str) -> tuple[str, Callable[[], Path]]:
    """The URL in the library that defines the network, whose end has the file's hash; and what finds the file."""
    if name in ("alexnet", "squeezenet1_1", "vgg16"):
        from torchvision.models import get_model_weights

        url = str(get_model_weights(name)["IMAGENET1K_V1"].url)
    else:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        url = str(URL_INCEPTION_V3)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    file = cache / url.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    prefix = match[1] if match else ""

    def find() -> Path:
        for known in (file, cache / file.name.replace("weights-", "pt_")):  # the latter is pytorch-fid's, the same file
            if known.is_file():
                if not sha256(known).startswith(prefix):
                    raise ValueError(f"{str(known)!r} is damaged: its SHA-256 does not begin with {prefix}")
                return known
        for variable in OFFLINE:
            if os.environ.get(variable, "").lower() in {"1", "true", "yes", "on"}:
                raise OSError(f"{variable} is set")
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix)
        return file

    return url, find


def _hub_file(name: str) -> tuple[str, Callable[[], Path]]:
    """The same weights as safetensors on the Hub, in words; and what finds the file, offline in the Hub's cache."""
    if name in DINOV2:
        import timm

        repository, file = str(timm.get_pretrained_cfg_value(DINOV2[name], "hf_hub_id")), "model.safetensors"
    else:
        import open_clip

        config = open_clip.get_pretrained_cfg(_open_clip_name(name), "openai")
        repository, file = config["hf_hub"].rstrip("/"), WEIGHTS

    def find() -> Path:
        found = from_hub(repository, PINNED.get(repository), [file]) / file
        if not found.is_file():
            raise OSError(f"the Hub's {repository} has no {file}")
        return found

    return f"{file} of the Hub's {repository}", find


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; ValueError: it is broken, or holds anything but tensors."""
    try:
        content = load_file(path) if path.suffix == ".safetensors" else pickles.read(path)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is truncated or not a safetensors file ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(part, Tensor) for part in content.values()):
        raise ValueError(f"{str(path)!r} must hold a dictionary of tensors and nothing else")
    return dict(content)


def network(name: str, layer: str, file: Path) -> nn.Module:
    """torch-fidelity's feature extractor `name`, in float32, frozen, in evaluation mode.

    It takes images, uint8 [b, 3, h, w], resizes them as TensorFlow 1 does, and returns a tuple with the features of
    `layer` [b, d], float32. ValueError: the file holds the weights of another network, or is broken.
    """
    tensors = read_tensors(file)
    build = _clip if name.startswith("clip-") else _dinov2 if name in DINOV2 else _convolutional
    return build(name, layer, tensors, file).eval().requires_grad_(False)


def _convolutional(name: str, layer: str, tensors: dict[str, Tensor], file: Path) -> nn.Module:
    """Inception or VGG16. Their constructors unpickle a file; they get one that is written here, in memory."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    written = io.BytesIO()
    torch.save(tensors, written)
    written.seek(0)
    try:
        extractor = FEATURE_EXTRACTORS_REGISTRY[name](name, [layer], feature_extractor_weights_path=written)
    except RuntimeError as error:  # load_state_dict's, with a line for each kind of mismatch
        raise _mismatch(name, file, str(error).partition(":")[2]) from None
    # Batch normalisation is folded into the convolutions, in float64 and rounded once: a tenth less time.
    for module in list(extractor.modules()):
        conv, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.conv, module.bn = fuse_conv_bn_eval(conv.double(), norm.double()).float(), nn.Identity()
    return extractor


def _clip(name: str, layer: str, tensors: dict[str, Tensor], file: Path) -> nn.Module:
    """The image tower of OpenAI's CLIP, without the constructor, which would run a TorchScript archive."""
    import open_clip
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, build_model

    with torch.device("meta"):
        wanted = open_clip.CLIP(**open_clip.get_model_config(_open_clip_name(name))).state_dict()
    _check(name, file, tensors, {key: part for key, part in wanted.items() if not key.endswith("attn_mask")})
    extractor = _without_constructor(FeatureExtractorCLIP, name, layer)
    extractor.model = build_model(dict(tensors), torch.float32)
    extractor.resolution = extractor.model.visual.input_resolution
    return extractor


def _dinov2(name: str, layer: str, tensors: dict[str, Tensor], file: Path) -> nn.Module:
    """DINOv2 from timm, without the constructor, which would import code that it downloads."""
    import timm
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    model = timm.create_model(DINOV2[name], num_classes=0, img_size=14 * PATCHES, pretrained=False)
    in_timm = {key: key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.") for key in tensors}
    renamed = {in_timm[key]: part for key, part in tensors.items() if key != "mask_token"}
    position = renamed.get("pos_embed")
    if position is not None and position.ndim == 3 and position.shape[1] > 1:
        renamed["pos_embed"] = resized_positions(position, PATCHES)
    _check(name, file, renamed, model.state_dict())
    model.load_state_dict(renamed)
    extractor = _without_constructor(FeatureExtractorDinoV2, name, layer)
    extractor.model = model
    return extractor


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings [1, 1 + n², d] for side² patches, by DINOv2's own rule.

    Bicubic, not antialiased, with a scale of (side + 0.1) / n. timm's rule differs, and would change the features.
    """
    grid = round((positions.shape[1] - 1) ** 0.5)
    if grid == side or grid**2 != positions.shape[1] - 1:
        return positions
    scale = (side + 0.1) / grid
    patches = positions[:, 1:].float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], resized.flatten(2).mT.to(positions)], 1)


def _without_constructor(kind: Any, name: str, layer: str) -> Any:
    """An extractor without its network: the part of the constructor before the weights."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    extractor = kind.__new__(kind)
    FeatureExtractorBase.__init__(extractor, name, [layer])
    extractor.feature_extractor_internal_dtype = torch.float32
    return extractor


def _check(name: str, file: Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for key, part in wanted.items():
        if key not in tensors and not key.endswith("num_batches_tracked"):
            raise _mismatch(name, file, f"it has no {key}")
        if key in tensors and tensors[key].shape != part.shape:
            raise _mismatch(name, file, f"{key} is {list(tensors[key].shape)}, not {list(part.shape)}")


def _mismatch(name: str, file: Path, reason: str) -> ValueError:
    return ValueError(f"{str(file)!r} holds no weights of {name}: {' '.join(reason.split())[:160]}")


def _open_clip_name(name: str) -> str:
    """open_clip's name of the network: "clip-vit-b-32" is ViT-B-32."""
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA

    return str(MODEL_METADATA[name]["filename"]).replace("px", "")
