"""A diffusion transformer with cross-attention to text (DiT, Peebles & Xie, arXiv 2212.09748).

Patches of the picture are tokens on a grid. What ediffi has is used as it is: `ConditionEmbedding` reads the sources,
`CrossAttention` can be painted and watched (`ediffi analyze`), `Preconditioned` makes a denoiser of the network.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.denoisers.attention import Context, CrossAttention, attend
from ediffi.registry.denoisers.conditioning import ConditionEmbedding
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.types import Conditioning


def dit(
    width: int = 128,
    depth: int = 6,
    head_channels: int = 32,
    patch_size: int = 2,
    sigma_data: float = 0.5,
    tokens: dict[str, int] = {"ngram_text": 128},  # noqa: B006  (read, never written)
    pooled: dict[str, int] = {"ngram_text": 64},  # noqa: B006
) -> Preconditioned:
    """A diffusion transformer with cross-attention (DiT with adaLN-Zero, arXiv 2212.09748): a base stage.

    Args:
        width: channels of a patch.
        depth: blocks.
        head_channels: channels an attention head; divides `width`.
        patch_size: side of a patch in pixels; divides the picture's.
        sigma_data: standard deviation of the training pictures, in [-1, 1] units.
        tokens: width of the tokens of each source that feeds cross-attention.
        pooled: width of the pooled embedding of each source that feeds the global path.

    Raises:
        ValueError: `width` is no multiple of `head_channels` and 4, or `sigma_data` is not positive.
    """
    return Preconditioned(Transformer(width, depth, head_channels, patch_size, tokens, pooled), sigma_data)


class Transformer(nn.Module):
    """The raw network: `F(x, c_noise, cond)`, a picture like `x`; arguments as `dit`."""

    def __init__(
        self,
        width: int,
        depth: int,
        head_channels: int,
        patch_size: int,
        tokens: dict[str, int],
        pooled: dict[str, int],
    ) -> None:
        super().__init__()
        if width % head_channels or width % 4:
            raise ValueError(f"width must be a multiple of head_channels ({head_channels}) and of 4, got {width}")
        self.patch_size = patch_size
        self.embedding = ConditionEmbedding(2 * width, width, tokens, pooled)
        self.enter = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(Block(width, 2 * width, head_channels) for _ in range(depth))
        self.scale_shift = _zeroed(nn.Linear(2 * width, 2 * width))
        self.leave = _zeroed(nn.Linear(width, 3 * patch_size**2))

    def forward(
        self, x: Float[Tensor, "b 3 h w"], c_noise: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """The network's output for scaled pictures.

        Raises:
            ValueError: a side of the picture is no multiple of the patch size.
        """
        if x.shape[-2] % self.patch_size or x.shape[-1] % self.patch_size:
            raise ValueError(f"a picture of {x.shape[-1]}x{x.shape[-2]} has no patches of {self.patch_size}")
        embedding, context = self.embedding(c_noise, cond)
        patches = self.enter(x)
        patches = patches + positions(patches)
        for block in self.blocks:
            patches = block(patches, embedding, context)
        scale, shift = self.scale_shift(embedding)[:, None].chunk(2, dim=-1)
        pixels = self.leave(_norm(_rows(patches)) * (1 + scale) + shift)
        return F.pixel_shuffle(_grid(pixels, patches), self.patch_size)


class Block(nn.Module):
    """Self-attention, cross-attention, a perceptron; the first and the last are scaled, shifted, gated (adaLN-Zero).

    Args:
        width: channels of a patch.
        embedding_width: of the global embedding.
        head_channels: channels an attention head.
    """

    def __init__(self, width: int, embedding_width: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.modulation = _zeroed(nn.Linear(embedding_width, 6 * width))
        self.to_qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.cross_attention = CrossAttention(width, width, head_channels, norm_groups=1)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(
        self, patches: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b width"], context: Context
    ) -> Float[Tensor, "b c h w"]:
        """The patches after the block."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        rows = _rows(patches)
        rows = rows + gate1 * self._attention(_norm(rows) * (1 + scale1) + shift1)
        rows = _rows(self.cross_attention(_grid(rows, patches), context))
        rows = rows + gate2 * self.perceptron(_norm(rows) * (1 + scale2) + shift2)
        return _grid(rows, patches)

    def _attention(self, rows: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        q, k, v = self.to_qkv(rows).unflatten(-1, (3, -1, self.head_channels)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))


def positions(patches: Float[Tensor, "b c h w"]) -> Float[Tensor, "c h w"]:
    """Sines and cosines of row and column, half of the channels each, for pictures of any size (DiT, section 3.2)."""
    channels, height, width = patches.shape[1:]
    waves = torch.exp(-math.log(10_000) * torch.arange(channels // 4, device=patches.device) / (channels // 4))

    def along(size: int) -> Tensor:
        angles = waves[:, None] * torch.arange(size, device=patches.device)
        return torch.cat([angles.sin(), angles.cos()])

    rows = along(height)[:, :, None].expand(-1, -1, width)
    columns = along(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns]).to(patches.dtype)


def _norm(rows: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    return F.layer_norm(rows, rows.shape[-1:])


def _rows(grid: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    return grid.flatten(2).transpose(1, 2)


def _grid(rows: Float[Tensor, "b n c"], like: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b c h w"]:
    return rows.transpose(1, 2).unflatten(-1, like.shape[-2:])


def _zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with zero weights, so that what it drives starts as nothing."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
