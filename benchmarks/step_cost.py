"""What a training step and a network call cost on CUDA under bf16-mixed, counted without a GPU.

    python benchmarks/step_cost.py [--network unet_base64 ...] [--output step_cost.json]

The step runs on fake CUDA tensors, which have shapes, strides and dtypes but no data, under CUDA's autocast. Each
operator is counted with the kernels it launches and the bytes it has to read and write at least. Where torch would ask
a GPU, this file answers: how many kernels an operator launches (`LAUNCHES`), that convolutions and group norms copy a
tensor that is not in their layout, and which attention kernel takes the inputs (`attend_on_cuda`). The backward pass
follows the graph in Python (`backward`), because torch's engine wants a device.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ediffi.registry import denoisers
from ediffi.registry.types import Conditioning, Embedding

PAPER = {"unet_base64": (32, 64, None), "efficient_sr256": (16, 256, 64), "efficient_sr1024": (16, 256, 64)}
"""Batch, side of the images, and side of the low-resolution images, as they were timed on a GPU."""
TOKENS = {"t5": (113, 4096, 0), "clip_text": (77, 768, 768), "clip_image": (1, 768, 768)}
"""Length, width, and width of the pooled embedding of the paper's sources."""
KINDS = {  # the first that is in an operator's name
    "attention": ("scaled_dot_product",),
    "convolution, matmul": ("convolution", "mm", "linear"),
    "norm": ("group_norm", "layer_norm"),
    "optimiser": ("_fused_adam", "_foreach_add"),
    "copy, cast, layout": ("copy", "clone", "contiguous", "pad", "zeros", "fill", "zero_", "ones"),
    "concatenation": ("cat", "stack"),
    "elementwise": ("",),
}
LAUNCHES = {"native_group_norm": 3, "native_group_norm_backward": 5, "native_layer_norm_backward": 2}
LAUNCHES |= {"_scaled_dot_product_efficient_attention_backward": 2, "_scaled_dot_product_flash_attention_backward": 3}
FREE = ("empty", "detach", "alias", "lift", "_unsafe_view", "new_empty", "_record")
READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique")
"""Operators that wait for the GPU."""


class Cost(TorchDispatchMode):
    """Counts launches and bytes of each kind, host reads, and the activations that are float32."""

    def __init__(self, batch: int, image_numel: int) -> None:
        super().__init__()
        self.batch, self.image_numel = batch, image_numel
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.wide: Counter[str] = Counter()
        self.layouts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in READS:
            self.reads[name] += 1
        if func.is_view or func.namespace not in ("aten", "ediffi") or name.startswith(FREE):
            return out
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        kind = next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))
        self.operators[name] += 1
        self.launches[kind] += launches(name, args, inputs)
        changed = written(func, args)
        read = inputs[len(changed) :] if "copy" in name else inputs
        self.bytes[kind] += sum(map(touched, read)) + sum(map(touched, outputs or changed))
        if name.startswith(("convolution", "native_group_norm")):
            # a convolution wants channels-last as soon as one input is, a group norm always channels first
            wanted = "convolution" in name and any(map(channels_last, inputs))
            for tensor in inputs:
                if tensor.ndim == 4 and channels_last(tensor) != wanted:
                    self._layout(name, tensor)
        turned = name in ("_to_copy", "clone", "copy_") and channels_last(inputs[-1]) != channels_last(outputs[0])
        if turned and self._is_activation(outputs[0]):
            self.layouts[name] += 1
        for tensor in outputs:
            if tensor.dtype == torch.float32 and self._is_activation(tensor):
                self.wide[name] += 1
        return out

    def _layout(self, name: str, tensor: Tensor) -> None:
        if self._is_activation(tensor):
            self.layouts[name] += 1
        self.launches["copy, cast, layout"] += 1
        self.bytes["copy, cast, layout"] += 2 * touched(tensor)

    def _is_activation(self, tensor: Tensor) -> bool:
        return tensor.ndim == 4 and tensor.shape[0] == self.batch and tensor.numel() > 2 * self.image_numel

    def summary(self) -> dict[str, Any]:
        """Everything counted, as plain numbers."""
        total = self.bytes.total()
        return {
            "launches": self.launches.total(),
            "launches by kind": {kind: self.launches[kind] for kind in KINDS},
            "GB": total / 1e9,
            "share of bytes": {kind: self.bytes[kind] / total for kind in KINDS},
            "host reads": self.reads.total(),
            "float32 activations": self.wide.total(),
            "layout changes": self.layouts.total(),
            "operators": dict(self.operators.most_common()),
        }


def channels_last(tensor: Tensor) -> bool:
    """Whether these are images or weights in channels-last."""
    return tensor.ndim == 4 and suggest_memory_format(tensor) == torch.channels_last


def launches(name: str, args: Any, inputs: list[Tensor]) -> int:
    """Kernels that CUDA launches for an operator."""
    if name == "convolution":
        return 1 + (args[2] is not None)  # the bias is added by a kernel of its own
    if name == "convolution_backward":
        return sum(args[-1])
    if name.startswith(("_foreach", "_fused")):  # at most 320 pieces of 65,536 numbers, and 36 to 64 tensors a launch
        lists = 1 + sum(isinstance(arg, list | tuple) and bool(arg) for arg in args[1:])
        tensors = [tensor for tensor in args[0] if tensor.numel()]
        pieces = sum(-(-tensor.numel() // 65536) for tensor in tensors)
        return max(-(-pieces // 320), -(-len(tensors) // {1: 110, 2: 64, 3: 48, 4: 36}.get(lists, 30)))
    return LAUNCHES.get(name, 1)


def written(func: Any, args: Any) -> list[Tensor]:
    """The arguments that an operator changes in place."""
    arguments = zip(func._schema.arguments, args, strict=False)
    return tree_leaves([arg for known, arg in arguments if known.alias_info and known.alias_info.is_write])


def touched(tensor: Tensor) -> int:
    """Bytes of the numbers of a tensor; expanded dimensions count once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


def attend_on_cuda(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    """`scaled_dot_product_attention` by the kernel that CUDA takes: flash, or with a bias the memory-efficient one.

    Both want 16 bits and a last stride of 1; otherwise the plain steps run. A bias must have the dtype of the scores.
    """
    if any(x.stride(-1) != 1 or x.dtype not in (torch.bfloat16, torch.float16) for x in (q, k, v)):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (scores if attn_mask is None else scores + attn_mask).softmax(-1).to(v.dtype) @ v
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    bias = attn_mask.to(q.dtype)
    if keys := bias.shape[-1] % 16:  # the kernel reads 16 keys at a time
        bias = F.pad(bias, (0, 16 - keys))[..., : bias.shape[-1]]
    expanded = bias.expand(*q.shape[:3], k.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, expanded, compute_log_sumexp=True)[0]


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """Gradients by walking the graph; torch's engine asks for a CUDA device, even for fake tensors."""
    assert loss.grad_fn is not None
    waiting: Counter[Any] = Counter()
    seen: set[Any]
    stack: list[Any]
    seen, stack = {loss.grad_fn}, [loss.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict, {loss.grad_fn: {0: torch.ones_like(loss)}})
    ready: list[Any] = [loss.grad_fn]
    while ready:
        node = ready.pop()
        given = gradients.pop(node, {})
        if hasattr(node, "variable"):
            accumulate(node.variable, given[0])
            continue
        inputs = [given.get(i) for i in range(len(node._input_metadata))]
        for (target, index), gradient in results(node, inputs):
            if gradient is not None:
                expected = target._input_metadata[index]
                if gradient.shape != expected.shape:  # of a tensor that was broadcast
                    gradient = gradient.sum_to_size(expected.shape)
                gradient = gradient.to(expected.dtype)
                known = gradients[target].get(index)
                gradients[target][index] = gradient if known is None else known + gradient
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)


def results(node: Any, inputs: list[Tensor | None]) -> list[tuple[tuple[Any, int], Tensor | None]]:
    """Where the gradients of a node go, and the gradients."""
    known = node.apply(*inputs) if hasattr(node, "apply") else node(*inputs)
    gradients = list(known) if isinstance(known, tuple) else [known]
    targets = list(node.next_functions)
    if hasattr(node, "apply"):  # of a `Function`, which has results for arguments that are no tensors too
        gradients = [gradient for gradient, needed in zip(gradients, node.needs_input_grad, strict=True) if needed]
        targets = [target for target in targets if target[0] is not None]
    return [pair for pair in zip(targets, gradients, strict=True) if pair[0][0] is not None]


def accumulate(parameter: Tensor, gradient: Tensor) -> None:
    """A first gradient is kept as it is if its strides are the parameter's, except in dimensions of 1; else copied."""
    assert parameter.grad is None
    strides = zip(gradient.stride(), parameter.stride(), parameter.shape, strict=True)
    if any(one != other for one, other, size in strides if size > 1):
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Fake CUDA tensors, CUDA's attention kernels, and its autocast to bfloat16, which asks for a device otherwise."""
    cudnn = torch._C._ConvBackend.Cudnn  # type: ignore[attr-defined]
    with (
        FakeTensorMode(),
        torch.device("cuda"),
        patch.object(F, "scaled_dot_product_attention", attend_on_cuda),
        patch("torch.cuda.is_available", lambda: True),
        patch("torch._C._select_conv_backend", lambda *_, **__: cudnn),
        patch("torch.cuda.is_bf16_supported", lambda *_: True),
    ):
        yield


def build(network: str, **arguments: Any) -> Any:
    """The denoiser, in the layout that training gives it."""
    denoiser = denoisers.create(network, **arguments)
    for module in denoiser.modules():  # fake parameters cannot be moved by `Module.to`
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.ndim == 4:
                weight = parameter.detach().to(memory_format=torch.channels_last)
                module._parameters[name] = nn.Parameter(weight)
    return denoiser


def inputs(batch: int, size: int, low_res: int | None, all_tokens: bool) -> tuple[Tensor, Tensor, Conditioning]:
    """Images, noise levels, and embeddings of full length; `all_tokens`: the host knows that they are."""
    sources = {
        name: Embedding(
            torch.zeros(batch, length, width),
            torch.ones(batch, length, dtype=torch.bool),
            torch.zeros(batch, pooled) if pooled else None,
            all_tokens=all_tokens,
        )
        for name, (length, width, pooled) in TOKENS.items()
    }
    cond = Conditioning(sources)
    if low_res is not None:
        cond = cond.with_low_res(torch.zeros(batch, 3, low_res, low_res), torch.zeros(batch))
    return torch.zeros(batch, 3, size, size), torch.ones(batch), cond


def training(network: str, **arguments: Any) -> Cost:
    """A forward and a backward pass with EDM's loss, and a step of AdamW; `arguments` build the network smaller."""
    batch, size, low_res = PAPER[network]
    with as_on_cuda():
        denoiser = build(network, **arguments)
        images, sigma, cond = inputs(batch, size, low_res, all_tokens=False)  # some samples lack a source
        optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, fused=True)
        for _ in range(2):  # the optimiser's first step makes its state
            optimizer.zero_grad(set_to_none=True)
            with (cost := Cost(batch, images.numel())):
                with torch.autocast("cuda", torch.bfloat16):
                    errors = (denoiser(images, sigma, cond) - images).square().flatten(1).mean(1)
                loss = (denoiser.loss_weight(sigma) * errors).mean()
                backward(loss)
                optimizer.step()
        return cost


def sampling(network: str, batch: int = 1, all_tokens: bool = True, **arguments: Any) -> Cost:
    """One call of a network as a cascade runs it: under autocast, with convolutions and linear layers in bfloat16.

    `all_tokens` is what the encoders say of one prompt; a guided call has a null prompt beside it, and needs a bias.
    """
    _, size, low_res = PAPER[network]
    with as_on_cuda(), torch.no_grad():
        denoiser = build(network, **arguments)
        for module in denoiser.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and isinstance(module, nn.Conv2d | nn.Linear):
                    module._parameters[name] = nn.Parameter(parameter.detach().to(torch.bfloat16))
        images, sigma, cond = inputs(batch, size, low_res, all_tokens)
        with (cost := Cost(batch, images.numel())), torch.autocast("cuda", torch.bfloat16):
            denoiser(images, sigma, cond)
        return cost


def show(report: dict[str, dict[str, Any]]) -> None:
    """Print the report as a table with one column a network and step."""
    print("".join([f"{'':28}", *(f"{name:>28}" for name in report)]))
    rows: dict[str, Callable[[dict[str, Any]], str]] = {"GB": lambda cost: f"{cost['GB']:.1f}"}
    rows |= {f"% {kind}": lambda cost, kind=kind: f"{100 * cost['share of bytes'][kind]:.1f}" for kind in KINDS}  # type: ignore[misc]
    rows["launches"] = lambda cost: str(cost["launches"])
    rows |= {f"  {kind}": lambda cost, kind=kind: str(cost["launches by kind"][kind]) for kind in KINDS}  # type: ignore[misc]
    for count in ("host reads", "float32 activations", "layout changes"):
        rows[count] = lambda cost, count=count: str(cost[count])  # type: ignore[misc]
    for row, cell in rows.items():
        print("".join([f"{row:28}", *(f"{cell(cost):>28}" for cost in report.values())]))


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=tuple(PAPER), nargs="+", default=list(PAPER))
    parser.add_argument("--output", type=Path, help="write the report as JSON too")
    args = parser.parse_args()
    report = {}
    for network in args.network:
        batch, size, _ = PAPER[network]
        report[f"{network}, training"] = training(network).summary()
        report[f"{network}, sampling"] = sampling(network).summary()
        print(f"{network}: training of {batch} x {size}², one call on 1 x {size}²")
    show(report)
    if args.output:
        args.output.write_text(json.dumps({"torch": torch.__version__, **report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
