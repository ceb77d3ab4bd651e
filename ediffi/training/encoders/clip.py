"""Train a CLIP on the images and captions of shards (Radford et al., arXiv 2103.00020): open_clip's own class."""

import copy
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional

from ediffi.data.stream import Batch
from ediffi.io.recipes import building
from ediffi.registry.encoders.clip import pool_text, text_states
from ediffi.registry.encoders.clip_files import CONFIG, WEIGHTS, load_clip
from ediffi.registry.encoders.folder import read_json
from ediffi.training.callbacks.optimizer_settings import OptimizerSettings
from ediffi.training.encoders.folder import EncoderFolder
from ediffi.training.encoders.vocabulary import END, PAD, SPECIAL, byte_pairs
from ediffi.training.lightning_module import paper_adamw
from ediffi.training.one_cycle import in_steps

MAX_SCALE = math.log(100)
"""The logits' scale is at most 100: larger ones make training unstable (Radford et al. 2021, section 2.5)."""
EMBED_DIM, VOCABULARY, CONTEXT_LENGTH = 128, 4096, 77
PARTS = 4
"""Parts of a batch of captions."""


class ClipTraining(L.LightningModule):
    """Trains a CLIP, from scratch or on: each caption has to find its image in a batch, and each image its caption.

    The end of the run writes `encoder/` into its directory: the `path` of `clip_text` and `clip_image`.

    Args:
        vision: `vision_cfg` of open_clip, such as `{image_size: 64, patch_size: 8, width: 192, layers: 4}`, or a list
            of `layers` for a ResNet. `image_size` is the data's.
        text: `text_cfg` of open_clip, such as `{width: 192, heads: 4, layers: 4}`.
        start: instead of all settings of the network, the folder of a CLIP to train on from: its weights, settings and
            tokenizer, as another run's `encoder/`.
        embed_dim: width of the space that images and texts share.
        vocabulary: tokens at most; they are learned from the captions.
        context_length: tokens of a text at most, the begin and the end token included.
        optimizer: from the parameters to the optimiser.
        lr_scheduler: from the optimiser to its schedule, stepped after each step; None for a constant rate.
    """

    tokenizer: Any  # of transformers; `EncoderFolder` sets it
    model: Any  # open_clip's
    _factor: Tensor  # of images in [-1, 1], for what this CLIP reads
    _offset: Tensor

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        start: Path | None = None,
        embed_dim: int = EMBED_DIM,
        vocabulary: int = VOCABULARY,
        context_length: int = CONTEXT_LENGTH,
        optimizer: OptimizerCallable = paper_adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if vocabulary < 100:
            raise ValueError(f"vocabulary must be at least 100 tokens, got {vocabulary}")
        others = vision, text, embed_dim, vocabulary, context_length
        if start is not None and others == (None, None, EMBED_DIM, VOCABULARY, CONTEXT_LENGTH):
            self.settings, self.model, self._known_tokenizer = _read_clip(start)
            context_length = self.settings["model_cfg"]["text_cfg"].get("context_length", context_length)
        elif start is None and vision is not None and text is not None:
            read = {"context_length": context_length, "vocab_size": vocabulary, "hf_tokenizer_name": "tokenizer"}
            ids = {"pool_type": "eos", "eos_id": SPECIAL.index(END), "pad_id": SPECIAL.index(PAD)}
            model = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": {**text, **read, **ids}}
            half = [0.5, 0.5, 0.5]  # the data's images are in [-1, 1]
            prepared = {"size": vision.get("image_size"), "mean": half, "std": half, "interpolation": "bicubic"}
            self.settings, self._known_tokenizer = {"model_cfg": model, "preprocess_cfg": prepared}, None
            self.model = _built(model)
        else:
            rest = "start alone, the folder of another CLIP with all of its sizes"
            raise ValueError(f"a CLIP has either vision and text, from scratch, or {rest}")
        self.model.to(memory_format=torch.channels_last)  # the fast layout of a ResNet's convolutions
        mean, std = (torch.tensor(self.settings["preprocess_cfg"][name]) for name in ("mean", "std"))
        self.register_buffer("_factor", (0.5 / std).view(3, 1, 1), persistent=False)
        self.register_buffer("_offset", ((0.5 - mean) / std).view(3, 1, 1), persistent=False)
        self.vocabulary, self.context_length = vocabulary, context_length
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler

    def configure_callbacks(self) -> list[L.Callback]:
        """What makes the tokenizer and writes the encoder, and the recipe's settings of the optimiser."""
        return [EncoderFolder(), OptimizerSettings()]

    def setup(self, stage: str) -> None:
        """ValueError: the data's images are not of the CLIP's size."""
        transform, size = self.trainer.datamodule.transform, self.model.visual.image_size  # type: ignore[attr-defined]
        height = size if isinstance(size, int) else size[0]
        if height != (given := transform.crop or transform.size):
            raise ValueError(f"this CLIP reads images of {height} pixels, and those of data have {given}")

    def learn_tokenizer(self, captions: Iterable[str]) -> Any:
        """A tokenizer with at most `vocabulary` tokens; that of `start`, if there is one."""
        if self._known_tokenizer is not None:
            return self._known_tokenizer
        return byte_pairs(captions, self.vocabulary, self.context_length)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule in steps."""
        with building():
            return in_steps(self._optimizer(self.parameters()), self._lr_scheduler, self.trainer.max_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The contrastive loss of a batch; ValueError if it is not finite."""
        loss = contrast(self._scale * self.similarity(batch), batch.captions)
        if not loss.isfinite():
            raise ValueError(f"the loss of step {self.global_step + 1} is {loss.item()}; try a smaller learning rate")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.captions))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, and the share of captions, and of images, that find their partner first in the batch."""
        alike, size = self.similarity(batch), len(batch.captions)
        self.log("val/loss", contrast(self._scale * alike, batch.captions), sync_dist=True, batch_size=size)
        right = same(batch.captions).to(alike.device)
        for name, found in (("text_to_image", alike.argmax(1)), ("image_to_text", alike.argmax(0))):
            share = right[torch.arange(size), found].float().mean()
            self.log(f"val/{name}", share, prog_bar=True, sync_dist=True, batch_size=size)

    def similarity(self, batch: Batch) -> Float[Tensor, "b b"]:
        """The cosine of each caption, by row, with each image."""
        return self.encode_texts(batch.captions) @ self.encode_images(batch.images).T

    def encode_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p"]:
        """The pooled vectors of images in [-1, 1], of length 1."""
        prepared = (images * self._factor + self._offset).to(memory_format=torch.channels_last)
        return self.model.encode_image(prepared, normalize=True)

    def encode_texts(self, captions: Sequence[str]) -> Float[Tensor, "b p"]:
        """The pooled vectors of captions, in parts of nearly equal length: padding costs as much as words."""
        read: dict[str, Any] = {"padding": True, "truncation": True, "max_length": self.context_length}
        tokens = self.tokenizer(list(captions), **read, return_tensors="pt").to(self.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"].bool()
        order = mask.sum(1).argsort(stable=True)
        pooled = []
        for rows in order.chunk(PARTS):
            length = int(mask[rows[-1]].sum())
            states = text_states(self.model, ids[rows, :length])
            pooled.append(pool_text(self.model, states, mask[rows, :length]))
        return torch.cat(pooled)[order.argsort()]

    @property
    def _scale(self) -> Tensor:
        return self.model.logit_scale.clamp(max=MAX_SCALE).exp()

    def write(self, folder: Path) -> None:
        """Write config, bfloat16 weights and tokenizer, as the encoders `clip_text` and `clip_image` load them."""
        write_clip(folder, self.model, self.tokenizer, self.settings)


def _built(settings: dict[str, Any]) -> Any:
    """open_clip's CLIP with random weights; ValueError for a wrong config."""
    import open_clip

    try:
        return open_clip.CLIP(**settings)
    except (TypeError, KeyError, AssertionError, RuntimeError) as error:  # what open_clip has for one
        raise ValueError(f"open_clip cannot build this CLIP: {type(error).__name__}: {error}") from None


def _read_clip(folder: Path) -> tuple[dict[str, Any], Any, Any]:
    """Settings, model and tokenizer of a CLIP's folder. ValueError: it has no tokenizer of transformers."""
    model: Any
    model, tokenizer = load_clip(folder)
    if not hasattr(tokenizer, "tokenizer"):
        raise ValueError(f"start: the CLIP {str(folder)!r} has no tokenizer of its own, which further training needs")
    settings: dict[str, Any] = read_json(folder / CONFIG)
    usual = {"mean": model.visual.image_mean, "std": model.visual.image_std}  # open_clip's, where the file has none
    settings["preprocess_cfg"] = {**usual, **settings.get("preprocess_cfg", {})}
    return settings, copy.deepcopy(model).requires_grad_(True).train(), tokenizer.tokenizer


def write_clip(folder: Path, model: torch.nn.Module, tokenizer: Any, settings: dict[str, Any]) -> None:
    """Write a CLIP as open_clip reads it; `settings` is the content of open_clip_config.json."""
    from safetensors.torch import save_file

    floats = (torch.float32, torch.float64)
    weights = {k: (v.bfloat16() if v.dtype in floats else v).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    tokenizer.save_pretrained(folder)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def contrast(logits: Float[Tensor, "b b"], captions: Sequence[str]) -> Float[Tensor, ""]:
    """The symmetric cross-entropy of CLIP (Radford et al., figure 3), captions by row.

    Our choice: all images with the same caption are equally right, since in a small world captions repeat.
    """
    right = same(captions).to(logits.device, torch.float32)
    right = right / right.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def same(captions: Sequence[str]) -> Tensor:
    """[b, b] whether two captions are the same."""
    numbers = {caption: index for index, caption in enumerate(captions)}
    ids = torch.tensor([numbers[caption] for caption in captions])
    return ids[:, None] == ids
