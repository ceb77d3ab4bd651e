"""The cost of a training step, counted on the meta device: floating-point operations, and memory for activations.

The network runs forwards and backwards on tensors without data, in the precisions that CUDA's autocast would choose and
with attention that stores no scores, as the kernels of GPUs do. This takes seconds and no memory at any size.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ediffi.registry.denoisers.conditioning import widths
from ediffi.registry.encoders import spec_of_source
from ediffi.registry.types import Conditioning, Embedding

LOW = (F.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)
"""What CUDA's autocast computes in bfloat16."""
PRODUCTS = ("convolution", "mm", "attention")
"""Parts of the names of products in torch's dispatcher."""
FREE = ("empty", "new_empty", "_unsafe_view", "detach", "alias")
"""Beginnings of the names of what runs no kernel."""
HIGH = (F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)
"""What it computes in float32."""


class Workload(NamedTuple):
    """The cost of training on one image, and what a batch costs whatever its size."""

    step: int  # floating-point operations of a training step, with those that checkpointing repeats
    activations: int  # bytes that a step needs besides weights, gradients and optimiser state
    traffic: int = 0  # bytes read and written by what is no product: norms, sums, casts, copies
    weights: int = 0  # the part of this traffic that is of a batch, not of an image: casts of weights and gradients
    edges: int = 0  # bytes that go into products and come out of them
    launches: int = 0  # kernels of a batch
    products: int = 0  # those of them that are convolutions, matrix products and attention


def count(denoiser: nn.Module, size: int, low_res: int | None, low_precision: bool = True) -> Workload:
    """Count a training step of a denoiser on the meta device, whose gradients are dropped from now on.

    `size` and `low_res` are the sides of its images in pixels; `low_precision` is bf16-mixed.
    """
    for parameter in denoiser.parameters():
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    with FlopCounterMode(display=False) as counter, _as_on_gpus(low_precision) as gpu:
        loss_of(denoiser, 1, size, low_res).backward()
    seen = []
    for batch in (1, 2):  # in the difference, what does not grow with the batch cancels: bfloat16 copies of weights
        with _Kernels() as kernels, _as_on_gpus(low_precision):
            loss_of(denoiser, batch, size, low_res).backward()
        seen.append(kernels)
    one, two = seen
    return Workload(
        counter.get_total_flops() + gpu.attention_flops,
        activations=two.peak - one.peak,
        traffic=two.traffic - one.traffic,
        weights=2 * one.traffic - two.traffic,
        edges=two.edges - one.edges,
        launches=one.launches,
        products=one.products,
    )


def loss_of(denoiser: nn.Module, batch: int, size: int, low_res: int | None, device: str = "meta") -> Tensor:
    """The loss of a batch of empty images, with conditioning of full length."""
    images, sigma = torch.zeros(batch, 3, size, size, device=device), torch.ones(batch, device=device)
    denoised = denoiser(images, sigma, _conditioning(denoiser, batch, low_res, device))
    return (denoised - images).square().mean()


def _conditioning(denoiser: nn.Module, batch: int, low_res: int | None, device: str) -> Conditioning:
    sources = {}
    for name, read in widths(denoiser).items():
        length = spec_of_source(name).max_tokens
        sources[name] = Embedding(
            torch.zeros(batch, length, read.get("width", 1), device=device),
            torch.ones(batch, length, dtype=torch.bool, device=device),
            torch.zeros(batch, read["pooled_width"], device=device) if "pooled_width" in read else None,
        )
    if low_res is None:
        return Conditioning(sources)
    images, aug_level = torch.zeros(batch, 3, low_res, low_res, device=device), torch.full((batch,), 0.1, device=device)
    return Conditioning(sources).with_low_res(images, aug_level)


def _drop_gradient(parameter: Tensor) -> None:
    """The gradients of weights are counted apart from activations."""
    parameter.grad = None


@contextmanager
def _as_on_gpus(low_precision: bool) -> Iterator["_AsOnGpus"]:
    """The mode is on while a module runs: torch switches it off in `backward`, where checkpointing runs some again."""
    mode = _AsOnGpus(low_precision)
    running: list[nn.Module] = []

    def enter(module: nn.Module, _: Any) -> None:
        if not running:
            mode.__enter__()
        running.append(module)

    def leave(*_: Any) -> None:
        running.pop()
        if not running:
            mode.__exit__(None, None, None)

    with register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True):
        yield mode


class _AsOnGpus(TorchFunctionMode):
    """CUDA's autocast, and attention that keeps no scores; its operations are counted here."""

    def __init__(self, low_precision: bool) -> None:
        super().__init__()
        self.low_precision, self.attention_flops = low_precision, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(self, *args[:3])
        dtype = torch.bfloat16 if func in LOW else torch.float32 if func in HIGH else None
        if self.low_precision and dtype is not None:
            args, kwargs = tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, (args, kwargs))
        return func(*args, **kwargs)


class _Attention(torch.autograd.Function):
    """The shapes of attention, and the operations of its kernels: two matrix products forwards, five backwards."""

    @staticmethod
    def forward(ctx: Any, mode: _AsOnGpus, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:3], v.shape[3])
        ctx.save_for_backward(q, k, v, out)
        ctx.mode, ctx.product = mode, 2 * q.numel() * k.shape[2]
        mode.attention_flops += 2 * ctx.product
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.mode.attention_flops += 5 * ctx.product
        q, k, v, _ = ctx.saved_tensors
        return None, torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Kernels(TorchDispatchMode):
    """The kernels that run under it: how many, what they read and write, and the most bytes that live at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.traffic = self.edges = self.launches = self.products = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, out)
        if not func.is_view and not func.__name__.startswith(FREE):
            moved = sum(t.numel() * t.element_size() for t in tree_leaves((args, out)) if isinstance(t, Tensor))
            product = any(part in func.__name__ for part in PRODUCTS)
            kernels = 2 if "backward" in func.__name__ else 1  # gradients of the input and of the weights
            self.launches += kernels
            if product:
                self.products, self.edges = self.products + kernels, self.edges + moved
            else:
                self.traffic += moved
        return out

    def _add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._known:
            self._known.add(key)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._remove, key, storage.nbytes())
        return tensor

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
