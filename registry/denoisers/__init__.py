"""The denoisers by name: the three networks of the paper, and the same classes at Toybox size.

Each factory returns a `Preconditioned` network: `denoiser(x, sigma, cond) -> denoised`. In YAML:

    denoiser:
      class_path: ediffi.registry.denoisers.unet_toybox
      init_args: {channels: 96}

A plug-in's denoiser has such a path too, in any package.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from torch import nn

from ediffi.registry.core import Registry, UnknownNameError, variant
from ediffi.registry.denoisers.adm import IDDPM, Sinusoids
from ediffi.registry.denoisers.conditioning import ConditionEmbedding
from ediffi.registry.denoisers.efficient_unet import EfficientUNet
from ediffi.registry.denoisers.layers import check_sizes
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.denoisers.unet import UNet

REGISTRY: Registry[nn.Module] = Registry("denoisers")
names, describe = REGISTRY.names, REGISTRY.describe
P = ParamSpec("P")
T = TypeVar("T", bound=nn.Module)


def remembering(factory: Callable[P, T]) -> Callable[P, T]:
    """The factory, of denoisers that know their registered name and arguments, so that a checkpoint can name them."""

    @functools.wraps(factory)
    def build(*args: P.args, **kwargs: P.kwargs) -> T:
        made = factory(*args, **kwargs)  # of a variant, which its parent has named already
        made.made_by = _called(factory, *args, **kwargs)  # type: ignore[assignment]
        return made

    return build


def register(factory: Callable[P, Preconditioned]) -> Callable[P, Preconditioned]:
    """Register a factory of denoisers that know their name and arguments."""
    return REGISTRY.register(remembering(factory))


def create(name: str, /, **arguments: Any) -> nn.Module:
    """Build the denoiser `name` with its defaults, except for `arguments`; errors as `Registry.create`."""
    made = REGISTRY.create(name, **arguments)
    if getattr(made, "made_by", None) is None:  # a plug-in's, which is registered as it is
        made.made_by = _called(REGISTRY.factory(name), **arguments)  # type: ignore[assignment]
    return made


def _called(factory: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]] | None:
    """Registered name and all arguments, as JSON has them; None where JSON has none such."""
    bound = inspect.signature(factory).bind(*args, **kwargs)
    bound.apply_defaults()
    try:
        return factory.__name__, json.loads(json.dumps(bound.arguments))
    except TypeError:
        return None


def architecture(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What two networks share whose weights fit and mean the same: name and arguments, those of an earlier version with
    the defaults of this one, without those of training."""
    parameters = inspect.signature(REGISTRY.factory(name)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    every = {key: list(v) if isinstance(v, tuple) else v for key, v in (defaults | dict(arguments)).items()}
    return name, {key: value for key, value in every.items() if key not in TRAINING_ONLY}


TRAINING_ONLY = ("dropout", "gradient_checkpointing")
"""Arguments that may differ between the experts of a stage."""

# Widths of T5-XXL and CLIP ViT-L/14.
PAPER_TOKENS = {"clip_text": 768, "t5": 4096, "clip_image": 768}
PAPER_POOLED = {"clip_text": 768, "clip_image": 768}
TOYBOX: dict[str, Any] = {
    "head_channels": 32,
    "context_width": 128,
    "tokens": {"clip_text": 128, "t5": 128, "clip_image": 128},
    "pooled": {"clip_text": 128, "clip_image": 128},
}

TOYBOX_SR = TOYBOX | {"channel_mults": (1, 2, 2), "cross_attention_levels": (2,), "patch_size": 2, "residual": True}

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """The denoiser of a plug-in, for `class_path: ediffi.registry.denoisers.NAME`."""
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return remembering(REGISTRY.factory(name))
        except UnknownNameError as error:
            raise AttributeError(str(error)) from None


@register
def unet_base64(
    channels: int = 256,
    channel_mults: tuple[int, ...] = (1, 2, 4, 4),
    num_res_blocks: int = 3,
    attention_levels: tuple[int, ...] = (1, 2, 3),
    head_channels: int = 64,
    norm_groups: int = 32,
    context_width: int | None = 1024,
    feed_forward: int = 0,
    dropout: float = 0.0,
    patch_size: int = 1,
    sigma_data: float = 0.5,
    gradient_checkpointing: bool = False,
    normalize_pooled: bool = False,
    tokens: dict[str, int] = PAPER_TOKENS,
    pooled: dict[str, int] = PAPER_POOLED,
) -> Preconditioned:
    """The base stage of the paper: ADM U-Net for 64² images (eDiff-I, appendix A).

    Our choices where the paper is silent: `head_channels` 64 as in ADM, global embedding of four times `channels`. The
    defaults of `context_width`, `feed_forward` and `normalize_pooled` are those of earlier versions, whose models do
    not name them; recipes/paper has the reading that comes closest to table 1 (docs/not-reproduced.md).

    Args:
        channels: channels at full resolution.
        channel_mults: channels of each level in multiples of `channels`.
        num_res_blocks: residual blocks of each level.
        attention_levels: levels (0 is full resolution) with self- and cross-attention.
        head_channels: channels an attention head.
        norm_groups: groups of the group norms; with few channels, groups of 16 or more are far faster on a CPU.
        context_width: common width that the tokens of all sources are projected to before cross-attention; None: each
            layer projects keys and values straight from the width of each source.
        feed_forward: width of a feed-forward after each attention, in multiples of its channels; 0 for none.
        normalize_pooled: scale pooled embeddings to a mean square of 1, as the other terms of the global path have.
        dropout: inside residual blocks.
        patch_size: fold pixels into channels by this factor; 1 in the paper.
        sigma_data: standard deviation of the training images, in [-1, 1] units.
        gradient_checkpointing: trade a second forward pass for memory.
        tokens: width of the tokens of each source that feeds cross-attention.
        pooled: width of the pooled embedding of each source that feeds the global path.
    """
    check_sizes(channels, channel_mults, num_res_blocks)
    embedding = ConditionEmbedding(4 * channels, context_width, tokens, pooled, normalize_pooled)
    levels = channel_mults, num_res_blocks, attention_levels
    heads = head_channels, norm_groups
    unet = UNet(embedding, channels, *levels, *heads, dropout, patch_size, feed_forward, gradient_checkpointing)
    return Preconditioned(unet, sigma_data)


@register
@variant(unet_base64, without=["sigma_data"], channels=192, channel_mults=(1, 2, 3, 4))
def unet_adm64(**arguments: Any) -> Preconditioned:
    """The published ADM-64 with cross-attention added: a trunk to fine-tune (`ediffi convert`).

    Sizes are those of guided-diffusion's 64x64 model.
    """
    network = unet_base64(**arguments).network
    # guided-diffusion embeds the step by other waves than ours; its weights expect them
    network.set_submodule("embedding.noise.0", Sinusoids(arguments["channels"]))
    return Preconditioned(network, scaling=IDDPM())


@register
@variant(
    unet_base64, channels=64, channel_mults=(1, 2), num_res_blocks=1, attention_levels=(1,), norm_groups=4, **TOYBOX
)
def unet_toybox(**arguments: Any) -> Preconditioned:
    """`unet_base64` at Toybox size: 16² images, minutes of CPU."""
    return unet_base64(**arguments)


@register
def efficient_sr256(
    channels: int = 128,
    channel_mults: tuple[int, ...] = (1, 2, 4, 8),
    num_res_blocks: tuple[int, ...] = (2, 4, 8, 8),
    self_attention_levels: tuple[int, ...] = (3,),
    cross_attention_levels: tuple[int, ...] = (3,),
    head_channels: int = 64,
    norm_groups: int = 32,
    context_width: int | None = 1024,
    feed_forward: int = 0,
    patch_size: int = 1,
    sigma_data: float = 0.5,
    residual: bool = False,
    gradient_checkpointing: bool = False,
    normalize_pooled: bool = False,
    tokens: dict[str, int] = PAPER_TOKENS,
    pooled: dict[str, int] = PAPER_POOLED,
) -> Preconditioned:
    """The first super-resolution stage of the paper: Efficient U-Net, 64² to 256² (eDiff-I, appendix A).

    Args:
        channels: channels at full resolution.
        channel_mults: channels of each level in multiples of `channels`.
        num_res_blocks: residual blocks of each level; the paper's 2 times 1, 2, 4, 4.
        self_attention_levels: levels with self-attention; level 3 of a 256² image is 32².
        cross_attention_levels: levels with cross-attention.
        head_channels: channels an attention head.
        norm_groups: groups of the group norms; with few channels, groups of 16 or more are far faster on a CPU.
        context_width: common width that the tokens of all sources are projected to before cross-attention; None: each
            layer projects keys and values straight from the width of each source.
        feed_forward: width of a feed-forward after each attention, in multiples of its channels; 0 for none.
        normalize_pooled: scale pooled embeddings to a mean square of 1, as the other terms of the global path have.
        patch_size: fold pixels into channels by this factor; 1 in the paper.
        sigma_data: standard deviation of the training images, or of the residual over bicubic.
        residual: predict the residual over the bicubically upsampled image; off in the paper.
        gradient_checkpointing: trade a second forward pass for memory.
        tokens: width of the tokens of each source that feeds cross-attention.
        pooled: width of the pooled embedding of each source that feeds the global path.
    """
    check_sizes(channels, channel_mults, num_res_blocks)
    embedding = ConditionEmbedding(4 * channels, context_width, tokens, pooled, normalize_pooled, super_resolution=True)
    levels = channel_mults, num_res_blocks, self_attention_levels, cross_attention_levels
    heads = head_channels, norm_groups
    unet = EfficientUNet(embedding, channels, *levels, *heads, patch_size, feed_forward, gradient_checkpointing)
    return Preconditioned(unet, sigma_data, residual)


@register
@variant(efficient_sr256, without=["self_attention_levels"], channel_mults=(1, 2, 4, 4))
def efficient_sr1024(**arguments: Any) -> Preconditioned:
    """The last stage of the paper: 256² to 1024², trained on 256² crops, hence without self-attention."""
    return efficient_sr256(self_attention_levels=(), **arguments)


@register
@variant(
    efficient_sr256,
    channels=48,
    norm_groups=3,
    num_res_blocks=(1, 2, 2),
    sigma_data=0.2,
    self_attention_levels=(),
    **TOYBOX_SR,
)
def efficient_toybox64(**arguments: Any) -> Preconditioned:
    """`efficient_sr256` at Toybox size, 16² to 64²."""
    return efficient_sr256(**arguments)


@register
@variant(efficient_sr1024, channels=32, norm_groups=4, num_res_blocks=(1, 1, 2), sigma_data=0.1, **TOYBOX_SR)
def efficient_toybox256(**arguments: Any) -> Preconditioned:
    """`efficient_sr1024` at Toybox size, 64² to 256², trained on crops."""
    return efficient_sr1024(**arguments)
