"""What a training step costs, counted on the meta device: floating-point operations, and memory for activations.

The network runs forwards and backwards on tensors without data, in the precisions that CUDA's autocast would choose and
with attention that stores no scores, as a GPU's kernels do. So neither a GPU nor memory is needed, and a network of any
size takes seconds.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ediffi.registry.denoisers.conditioning import ConditionEmbedding
from ediffi.registry.encoders import spec_of_source
from ediffi.registry.types import Conditioning, Embedding

LOW = (F.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)
HIGH = (F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)
"""What CUDA's autocast computes in bfloat16, and what in float32."""


@dataclass(frozen=True)
class Workload:
    """What training costs for one picture.

    Attributes:
        forward: floating-point operations of the forward pass.
        step: of a training step, with what checkpointing computes again.
        activations: bytes that a step needs besides weights, gradients and optimiser state.
    """

    forward: int
    step: int
    activations: int


def count(denoiser: nn.Module, size: int, low_res: int | None, low_precision: bool = True) -> Workload:
    """Count one training step of a denoiser.

    Args:
        denoiser: on the meta device, with gradient checkpointing or without.
        size: side of its pictures.
        low_res: side of the low-resolution picture; None for a base stage.
        low_precision: train with bf16-mixed; in float32 otherwise.
    """
    forward = _flops(denoiser, size, low_res, low_precision, backward=False)
    step = _flops(denoiser, size, low_res, low_precision, backward=True)
    one, two = (_peak(denoiser, size, low_res, low_precision, batch) for batch in (1, 2))
    return Workload(forward, step, two - one)


def conditioning(denoiser: nn.Module, batch: int, low_res: int | None, device: str = "meta") -> Conditioning:
    """What a denoiser is told in training, of full length, without content."""
    embeddings = next((module for module in denoiser.modules() if isinstance(module, ConditionEmbedding)), None)
    tokens: dict[str, Any] = {} if embeddings is None else dict(embeddings.tokens.items())
    pooled: dict[str, Any] = {} if embeddings is None else dict(embeddings.pooled.items())
    sources = {}
    for name in {**tokens, **pooled}:
        length = spec_of_source(name).max_tokens
        width = tokens[name][0].in_features if name in tokens else 1
        sources[name] = Embedding(
            torch.zeros(batch, length, width, device=device),
            torch.ones(batch, length, dtype=torch.bool, device=device),
            torch.zeros(batch, pooled[name].in_features, device=device) if name in pooled else None,
        )
    cond = Conditioning(sources)
    if low_res is None:
        return cond
    return cond.with_low_res(
        torch.zeros(batch, 3, low_res, low_res, device=device), torch.full((batch,), 0.1, device=device)
    )


def loss_of(denoiser: nn.Module, batch: int, size: int, low_res: int | None, device: str = "meta") -> Tensor:
    """The loss of a batch of pictures without content."""
    images, sigma = torch.zeros(batch, 3, size, size, device=device), torch.ones(batch, device=device)
    denoised = denoiser(images, sigma, conditioning(denoiser, batch, low_res, device))
    return (denoised - images).square().mean()


def _flops(denoiser: nn.Module, size: int, low_res: int | None, low_precision: bool, backward: bool) -> int:
    counter = FlopCounterMode(display=False)
    with torch.set_grad_enabled(backward), counter, _as_on_gpus(low_precision) as attention:
        loss = loss_of(denoiser, 1, size, low_res)
        if backward:
            loss.backward()
    denoiser.zero_grad()
    return int(counter.get_total_flops()) + attention.flops


def _peak(denoiser: nn.Module, size: int, low_res: int | None, low_precision: bool, batch: int) -> int:
    with _gradients_dropped(list(denoiser.parameters())), _PeakMemory() as memory, _as_on_gpus(low_precision):
        loss_of(denoiser, batch, size, low_res).backward()
    return memory.peak


@contextmanager
def _gradients_dropped(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients of weights are counted apart: here each goes as soon as it is there."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(drop) for p in parameters if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _as_on_gpus(low_precision: bool) -> Iterator["_AsOnGpus"]:
    """The mode is on while a module runs: forwards, and where checkpointing runs it again, backwards."""
    mode, depth = _AsOnGpus(low_precision), 0

    def enter(*_: Any) -> None:
        nonlocal depth
        if depth == 0:
            mode.__enter__()
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            mode.__exit__(None, None, None)

    hooks = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield mode
    finally:
        for hook in hooks:
            hook.remove()


class _AsOnGpus(TorchFunctionMode):
    """CUDA's autocast, and attention that keeps no scores; its operations are counted here."""

    def __init__(self, low_precision: bool) -> None:
        super().__init__()
        self.low_precision, self.flops = low_precision, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(self._count, *args[:3])
        dtype = torch.bfloat16 if func in LOW else torch.float32 if func in HIGH else None
        if self.low_precision and dtype is not None:
            args, kwargs = tree_map_only(Tensor, lambda tensor: _cast(tensor, dtype), (args, kwargs))
        return func(*args, **kwargs)

    def _count(self, flops: int) -> None:
        self.flops += flops


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


class _Attention(torch.autograd.Function):
    """The shapes of attention, and what its kernels compute: two products forwards, five backwards."""

    @staticmethod
    def forward(ctx: Any, count: Callable[[int], None], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:3], v.shape[3])
        ctx.save_for_backward(q, k, v, out)
        ctx.count, ctx.product = count, 2 * q.numel() * k.shape[2]
        count(2 * ctx.product)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.count(5 * ctx.product)
        q, k, v, _ = ctx.saved_tensors
        return None, torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made under it have at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._made, out)
        return out

    def _made(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._known:
            self._known.add(key)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, key, storage.nbytes())
        return tensor

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
