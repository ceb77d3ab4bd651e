"""Models of people's preferences: a CLIP that was trained on which of two images people chose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from ediffi.evaluation.metrics.clip_score import ClipScorer
from ediffi.evaluation.metrics.networks import read_tensors
from ediffi.evaluation.scorers.named import register
from ediffi.io import pickles
from ediffi.io.files import sha256
from ediffi.registry.encoders.clip_files import is_local
from ediffi.registry.encoders.folder import WANTED_TOKENIZER, check_folder, from_hub, unavailable

MODEL, PROCESSOR = ("config.json", "model.safetensors"), ("preprocessor_config.json", *WANTED_TOKENIZER)


@dataclass(frozen=True)
class ClipPreference:
    """A CLIP of transformers that was trained on people's choices: the scaled cosine of image and caption."""

    model: Any
    tokenizer: Any
    image_processor: Any
    protocol: Mapping[str, Any]

    def __call__(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Float32[Tensor, " b"]:
        """exp(logit_scale) · cosine of each image and its caption."""
        longest = self.model.config.text_config.max_position_embeddings
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        inputs = {**self.tokenizer(list(captions), **options)}
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        inputs |= {"pixel_values": self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]}
        with torch.inference_mode():
            found = self.model(**{name: part.to(self.model.device) for name, part in inputs.items()})
            return self.model.logit_scale.exp() * (found.image_embeds * found.text_embeds).sum(1)


@register
def pickscore(
    path: str = "yuvalkirstain/PickScore_v1",
    processor: str | None = None,
    revision: str | None = None,
    device: str = "cpu",
) -> ClipPreference:
    """PickScore (Kirstain et al., arXiv 2305.01569), or another CLIP of transformers that was trained on preferences.

    Args:
        path: a folder with config.json and model.safetensors, or a repository of the Hub.
        processor: a folder or repository with the tokenizer and preprocessor_config.json; by default the folder itself,
            or the ViT-H/14 that PickScore was trained from.
        revision: of the model's repository.
        device: where it runs.

    Raises:
        FileNotFoundError: files are missing, and cannot be downloaded.
        ValueError: a file is broken.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    beside = path if is_local(path) else "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    folder, words = _folder(path, revision, MODEL), _folder(processor or beside, None, PROCESSOR)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model, told = CLIPModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **safe)
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{str(folder / MODEL[1])!r} lacks {len(missing)} tensors of a CLIP, such as {missing[0]}")
    protocol = {
        "weights": sha256(folder / MODEL[1]),
        "processor": {name: sha256(words / name) for name in PROCESSOR},
        "library": f"transformers {version('transformers')}",
    }
    placed = model.float().eval().requires_grad_(False).to(device)
    tokenizer = AutoTokenizer.from_pretrained(words, **safe)
    return ClipPreference(placed, tokenizer, CLIPImageProcessor.from_pretrained(words, **safe), protocol)


@dataclass(frozen=True)
class Hpsv2:
    """HPSv2: an open_clip model's cosine of image and caption."""

    clip: ClipScorer

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Of the network."""
        return self.clip.protocol

    def __call__(self, images: Sequence[Image.Image], captions: Sequence[str]) -> Float32[Tensor, " b"]:
        """The cosine of each image and its caption, as the authors' `hpsv2.score` returns it."""
        prepared = torch.stack([self.clip.prepare(image) for image in images])
        return self.clip.scores(self.clip.embed_images(prepared), captions) / 100


@register
def hpsv2(path: str, model: str = "ViT-H-14", device: str = "cpu") -> Hpsv2:
    """HPSv2 (Wu et al., arXiv 2306.09341), version 2.0 or 2.1 by the file that is given.

    Args:
        path: HPS_v2_compressed.pt or HPS_v2.1_compressed.pt of the Hub's xswu/HPSv2; only tensors are read.
        model: the network's name in open_clip.
        device: where it runs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is broken, or has the weights of another network.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if not (file := Path(path)).is_file():
        files = "HPS_v2.1_compressed.pt of the Hub's xswu/HPSv2"
        raise FileNotFoundError(f"no file {path!r} with weights of HPSv2: download {files}, and give it as path")
    content = read_tensors(file) if file.suffix == ".safetensors" else pickles.read(file)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    network = open_clip.create_model(model, pretrained=None)
    try:
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{path!r} holds no weights of HPSv2's {model}: {reason}") from None
    network = network.float().eval().requires_grad_(False).to(device)
    settings = PreprocessCfg(size=network.visual.image_size, resize_mode="longest")  # as the authors' script has it
    prepare, width = image_transform_v2(settings, is_train=False), network.visual.output_dim
    protocol = {
        "model": model,
        "weights": sha256(file),
        "resize": f"{settings.size}, {settings.interpolation}, {settings.resize_mode}, antialiased by Pillow",
        "library": f"open_clip_torch {open_clip.__version__}",
    }
    place = torch.device(device)
    return Hpsv2(ClipScorer(network, open_clip.get_tokenizer(model), prepare, width, protocol, place))


def _folder(source: str, revision: str | None, files: Sequence[str]) -> Path:
    """A folder with the files: the given one, or that of the Hub's cache."""
    if is_local(source):
        folder = Path(source)
    else:
        try:
            folder = from_hub(source, revision, files)
        except OSError as error:
            advice = f"download {', '.join(files)}, and give their folder as path"
            raise unavailable(f"the scorer {source!r}", revision, error, advice) from error
    check_folder(folder, files, "a scorer")
    return folder
