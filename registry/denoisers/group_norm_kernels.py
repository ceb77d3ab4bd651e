"""`GroupNorm` for CUDA without a compiler: one kernel forwards and one backwards, in Triton.

A program owns some groups of one image: it reads their pixels twice, first for the sums, then for the result. Images
are channels-last in memory: `pixels` rows of `channels` numbers.

`no_type_check` keeps checkers of shapes from wrapping a kernel, which Triton reads as source.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
@no_type_check
def _owned(channels, groups, SIZE: tl.constexpr, BUNDLE: tl.constexpr, LANES: tl.constexpr):
    """Channel and group of each lane of a program, and whether it has one: a group takes a power of two of lanes."""
    lane = tl.arange(0, LANES)
    group = tl.program_id(1) * BUNDLE + lane // (LANES // BUNDLE)
    if BUNDLE * SIZE == LANES:  # no lane is idle: said so that the compiler reads several channels at once
        channel = tl.program_id(1) * LANES + lane
        valid = channel < channels
    else:
        within = lane % (LANES // BUNDLE)
        channel = group * SIZE + within
        valid = (within < SIZE) & (group < groups)
    return channel, group, valid


@triton.jit
@no_type_check
def _over_group(numbers, BUNDLE: tl.constexpr, LANES: tl.constexpr):
    """The sum over each group, in every lane of the group."""
    grouped = tl.reshape(numbers, (BUNDLE, LANES // BUNDLE))
    total = tl.expand_dims(tl.sum(grouped, 1), 1)
    return tl.reshape(tl.broadcast_to(total, (BUNDLE, LANES // BUNDLE)), (LANES,))


@triton.jit
@no_type_check
def _affine(weight, bias, scale_shift, stride, sample, channel, valid, channels, SHIFTED: tl.constexpr):
    """`1 + scale`, and weight and bias of the normed numbers."""
    w = tl.load(weight + channel, mask=valid, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=valid, other=0.0).to(tl.float32)
    gain = tl.full(w.shape, 1.0, tl.float32)
    if SHIFTED:
        row = scale_shift + sample * stride + channel
        gain += tl.load(row, mask=valid, other=0.0).to(tl.float32)
        b = b * gain + tl.load(row + channels, mask=valid, other=0.0).to(tl.float32)
    return gain, w * gain, b


@triton.jit
@no_type_check
def _forward(
    x, y, weight, bias, scale_shift, stride, means, rstds, pixels, channels, groups, eps,
    SHIFTED: tl.constexpr, SILU: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, BUNDLE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    channel, group, valid = _owned(channels, groups, SIZE, BUNDLE, LANES)
    start = sample * pixels * channels
    # sums of the distance to the first pixel, which do not cancel where the mean is large
    origin = tl.load(x + start + channel, mask=valid, other=0.0).to(tl.float32)
    total = tl.zeros((LANES,), tl.float32)
    squares = tl.zeros((LANES,), tl.float32)
    for first in range(0, pixels, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        there = (row < pixels) & valid[None, :]
        tile = tl.load(x + start + row * channels + channel[None, :], mask=there, other=0.0).to(tl.float32)
        tile = tl.where(there, tile - origin[None, :], 0.0)
        total += tl.sum(tile, 0)
        squares += tl.sum(tile * tile, 0)
    own = tl.where(valid, origin + total / pixels, 0.0)
    mean = _over_group(own, BUNDLE, LANES) / SIZE
    apart = tl.where(valid, own - mean, 0.0)
    deviations = squares - total * total / pixels + pixels * apart * apart
    rstd = tl.rsqrt(_over_group(deviations, BUNDLE, LANES) / (SIZE * pixels) + eps)
    _, w, b = _affine(weight, bias, scale_shift, stride, sample, channel, valid, channels, SHIFTED)
    for first in range(0, pixels, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        there = (row < pixels) & valid[None, :]
        place = start + row * channels + channel[None, :]
        tile = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        tile = (tile - mean[None, :]) * (rstd * w)[None, :] + b[None, :]
        if SILU:
            tile = tile * tl.sigmoid(tile)
        tl.store(y + place, tile.to(y.dtype.element_ty), mask=there)
    # every lane of a group has the same to write
    tl.store(means + sample * groups + group, mean, mask=valid)
    tl.store(rstds + sample * groups + group, rstd, mask=valid)


@triton.jit
@no_type_check
def _incoming(dy, x, place, there, mean, rstd, w, b, SILU: tl.constexpr):
    """The gradient before SiLU, and the normed numbers."""
    gradient = tl.load(dy + place, mask=there, other=0.0).to(tl.float32)
    tile = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
    normed = (tile - mean[None, :]) * rstd[None, :]
    if SILU:
        z = normed * w[None, :] + b[None, :]
        gate = tl.sigmoid(z)
        gradient *= gate * (1 + z * (1 - gate))
    return gradient, normed


@triton.jit
@no_type_check
def _backward(
    dy, x, weight, bias, scale_shift, stride, means, rstds, dx, d_affine, d_scale_shift, pixels, channels, groups,
    SHIFTED: tl.constexpr, SILU: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, BUNDLE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    channel, group, valid = _owned(channels, groups, SIZE, BUNDLE, LANES)
    start = sample * pixels * channels
    mean = tl.load(means + sample * groups + group, mask=valid, other=0.0)
    rstd = tl.load(rstds + sample * groups + group, mask=valid, other=0.0)
    gain, w, b = _affine(weight, bias, scale_shift, stride, sample, channel, valid, channels, SHIFTED)
    total = tl.zeros((LANES,), tl.float32)
    weighted = tl.zeros((LANES,), tl.float32)
    for first in range(0, pixels, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        there = (row < pixels) & valid[None, :]
        place = start + row * channels + channel[None, :]
        gradient, normed = _incoming(dy, x, place, there, mean, rstd, w, b, SILU)
        total += tl.sum(gradient, 0)
        weighted += tl.sum(gradient * normed, 0)
    count = SIZE * pixels
    shift = _over_group(w * total, BUNDLE, LANES) / count
    slope = _over_group(w * weighted, BUNDLE, LANES) / count
    for first in range(0, pixels, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        there = (row < pixels) & valid[None, :]
        place = start + row * channels + channel[None, :]
        gradient, normed = _incoming(dy, x, place, there, mean, rstd, w, b, SILU)
        result = rstd[None, :] * (w[None, :] * gradient - shift[None, :] - normed * slope[None, :])
        tl.store(dx + place, result.to(dx.dtype.element_ty), mask=there)
    here = d_affine + sample * 2 * channels + channel
    tl.store(here, gain * weighted, mask=valid)
    tl.store(here + channels, gain * total, mask=valid)
    if SHIFTED:
        plain_w = tl.load(weight + channel, mask=valid, other=0.0).to(tl.float32)
        plain_b = tl.load(bias + channel, mask=valid, other=0.0).to(tl.float32)
        here = d_scale_shift + sample * 2 * channels + channel
        kind = d_scale_shift.dtype.element_ty
        tl.store(here, (plain_w * weighted + plain_b * total).to(kind), mask=valid)
        tl.store(here + channels, total.to(kind), mask=valid)


def tiling(channels: int, groups: int, item: int, pixels: int) -> dict[str, int]:
    """Rows of a tile, groups of a program, lanes: at least 32 bytes of each pixel, since memory moves as many.

    Large images have few programs, so each gets more warps: 16 images of 256² with 128 channels have one for each of an
    H100's multiprocessors. The batch does not count, so that an image has the same bits in each.
    """
    width = triton.next_power_of_2(channels // groups)
    bundle = min(max(1, 32 // (item * width)), triton.next_power_of_2(groups))
    warps = 16 if pixels >= 128**2 else 8 if pixels >= 64**2 else 4
    lanes = bundle * width
    return {"ROWS": max(1, 1024 * warps // lanes), "BUNDLE": bundle, "LANES": lanes, "num_warps": warps}


def _rows(scale_shift: Tensor | None) -> tuple[Tensor | None, int]:
    """The scale-shift, which may be some columns of a wider tensor, and how far apart its rows are in memory."""
    if scale_shift is None:
        return None, 0
    rows = scale_shift if scale_shift.stride(1) == 1 else scale_shift.contiguous()
    return rows, rows.stride(0)


@torch.library.custom_op("ediffi::group_norm", mutates_args=())
def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, scale_shift: Tensor | None, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, in channels-last, and mean and 1/deviation [b, groups] for the backward pass."""
    x = x.contiguous(memory_format=torch.channels_last)
    y, batch, channels, pixels = torch.empty_like(x), x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    mean, rstd = (x.new_empty(batch, groups, dtype=torch.float32) for _ in range(2))
    tiles = tiling(channels, groups, x.element_size(), pixels)
    shifts, stride = _rows(scale_shift)
    with torch.cuda.device_of(x):
        _forward[batch, triton.cdiv(groups, tiles["BUNDLE"])](
            x, y, weight, bias, shifts, stride, mean, rstd, pixels, channels, groups, eps,
            SHIFTED=shifts is not None, SILU=silu, SIZE=channels // groups, **tiles,
        )  # fmt: skip
    return y, mean, rstd


@torch.library.custom_op("ediffi::group_norm_backward", mutates_args=())
def group_norm_backward(
    dy: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    scale_shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of weight and bias for each image [b, 2, c], and of the scale-shift (empty without one)."""
    dy, x = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (dy, x))
    dx, batch, channels, pixels = torch.empty_like(x), x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    d_affine = x.new_empty(batch, 2, channels, dtype=torch.float32)
    shifts, stride = _rows(scale_shift)
    d_scale_shift = x.new_empty(0) if shifts is None else shifts.new_empty(shifts.shape)
    tiles = tiling(channels, groups, x.element_size(), pixels)
    with torch.cuda.device_of(x):
        _backward[batch, triton.cdiv(groups, tiles["BUNDLE"])](
            dy, x, weight, bias, shifts, stride, mean, rstd, dx, d_affine, d_scale_shift, pixels, channels, groups,
            SHIFTED=shifts is not None, SILU=silu, SIZE=channels // groups, **tiles,
        )  # fmt: skip
    return dx, d_affine, d_scale_shift


@group_norm.register_fake
def _(x: Tensor, groups: int, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty(x.shape[0], groups, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x, memory_format=torch.channels_last), mean, rstd


@group_norm_backward.register_fake
def _(dy: Tensor, x: Tensor, groups: int, weight: Tensor, bias: Tensor, scale_shift: Tensor | None, *_: Any) -> Any:
    d_affine = x.new_empty(x.shape[0], 2, x.shape[1], dtype=torch.float32)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    d_scale_shift = x.new_empty(0) if scale_shift is None else scale_shift.new_empty(scale_shift.shape)
    return dx, d_affine, d_scale_shift


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, groups, weight, bias, scale_shift, _, silu = inputs
    ctx.save_for_backward(x, weight, bias, scale_shift, *output[1:])
    ctx.groups, ctx.silu = groups, silu
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, weight, bias, scale_shift, mean, rstd = ctx.saved_tensors
    dx, d_affine, d_shifts = group_norm_backward(dy, x, ctx.groups, weight, bias, scale_shift, mean, rstd, ctx.silu)
    d_weight, d_bias = d_affine.sum(0).to(weight.dtype)
    return dx, None, d_weight, d_bias, None if scale_shift is None else d_shifts, None, None


group_norm.register_autograd(_gradients, setup_context=_save)
