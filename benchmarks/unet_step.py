"""Forward and training step of our ADM U-Net against diffusers' `UNet2DConditionModel`, as ratios within one run.

    python benchmarks/unet_step.py [--resolution 32] [--batch-size 4] [--channels 64] [--threads N]
        [--dtype float32|bfloat16] [--device cpu|cuda] [--repeats 5] [--output unet_step.json]

Both networks have three levels, attention at the lower two, two residual blocks a level, the same context of 192 tokens
with padding masked out, and the same number of parameters to 1 % and of FLOPs to 3 % (ours is wider at the last level;
diffusers has feed-forward layers instead). Training is forward and backward, without optimizer; bfloat16 is autocast,
as in training. Everything is timed in A B A B order, the machine's own matmul and convolution among the rest, and each
network runs in the memory layout that suits it better.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from attention_kernel import PAPER_KEYS, interleave, ratio
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ediffi.registry.denoisers import unet_base64
from ediffi.registry.types import Conditioning, Embedding

CONTEXT, HEAD, BLOCKS = 256, 32, 2
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
MODES = ("forward", "training")
KINDS = {  # the first that matches an operation's name; the backward pass of each counts with it
    "attention": ("scaled_dot_product", "softmax", "bmm", "flash", "efficient_attention"),
    "convolution": ("conv",),
    "norm": ("norm",),
    "matmul": ("mm", "matmul", "linear"),
    "copies": ("copy", "::to", "clone", "::cat", "contiguous", "fill", "zero", "empty"),
    "elementwise": ("add", "mul", "silu", "gelu", "upsample", "avg_pool", "sum", "div", "sub"),
}


@dataclass(frozen=True)
class Setting:
    """What every measurement of a run shares."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    resolution: int
    channels: int

    def precision(self) -> AbstractContextManager[object]:
        """Autocast for bfloat16, nothing for float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def synchronize(self) -> None:
        """Wait for the accelerator."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def ours(channels: int) -> nn.Module:
    """The raw network of `unet_base64`, small: widths c, 2c, 3c."""
    return unet_base64(
        channels=channels,
        channel_mults=(1, 2, 3),
        num_res_blocks=BLOCKS,
        attention_levels=(1, 2),
        head_channels=HEAD,
        norm_groups=channels // 8,  # as many channels a group as the paper's 256 / 32
        context_width=CONTEXT,
        tokens={"t5": CONTEXT},
        pooled={"t5": CONTEXT},
    ).network


def theirs(channels: int) -> nn.Module:
    """Its peer in diffusers: widths c, 2c, 5/2 c, where feed-forward layers take the parameters of our last level."""
    widths = (channels, 2 * channels, 5 * channels // 2)
    return UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        layers_per_block=BLOCKS,
        norm_num_groups=channels // 8,
        attention_head_dim=tuple(width // HEAD for width in widths),  # the number of heads, despite its name
        resnet_time_scale_shift="scale_shift",
        cross_attention_dim=CONTEXT,
        encoder_hid_dim=CONTEXT,
        encoder_hid_dim_type="text_proj",
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=CONTEXT,
    )


def calls(setting: Setting, layout: torch.memory_format) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """Both networks, each with a forward pass on the same picture, noise level, masked tokens and pooled embedding."""
    b, size = setting.batch, setting.resolution
    x = torch.randn(b, 3, size, size, device=setting.device).contiguous(memory_format=layout)
    time = torch.rand(b, device=setting.device)
    tokens = torch.randn(b, PAPER_KEYS, CONTEXT, device=setting.device)
    pooled = torch.randn(b, CONTEXT, device=setting.device)
    mask = torch.ones(b, PAPER_KEYS, dtype=torch.bool, device=setting.device)
    mask[::2, -PAPER_KEYS // 3 :] = False
    cond = Conditioning({"t5": Embedding(tokens[:, 1:], mask[:, 1:], pooled)})  # ours adds the null token
    mine, peer = (activated(build(setting.channels)).to(memory_format=layout) for build in (ours, theirs))
    mine.to(setting.device)
    peer.to(setting.device)
    return {
        "ours": (mine, lambda: mine(x, time, cond)),
        "diffusers": (peer, lambda: peer(x, time, tokens, class_labels=pooled, encoder_attention_mask=mask).sample),
    }


def activated(network: nn.Module) -> nn.Module:
    """The network with its zero weights redrawn, as if trained, so that no gradient is trivially zero."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def step(setting: Setting, network: nn.Module, call: Callable[[], Tensor], mode: str) -> None:
    """One forward pass, or one forward and backward pass."""
    with torch.set_grad_enabled(mode == "training"):
        with setting.precision():
            out = call()
        if mode == "training":
            network.zero_grad(set_to_none=True)
            out.float().square().mean().backward()


def peaks(setting: Setting) -> dict[str, tuple[float, Callable[[], object]]]:
    """FLOPs and calls of a large matmul and 3x3 convolutions: what the machine does at its best."""
    large = setting.device.type == "cuda"
    n, batch, channels, size = (8192, 64, 256, 64) if large else (1024, 8, 128, 32)
    result: dict[str, tuple[float, Callable[[], object]]] = {}
    for dtype in dict.fromkeys((torch.float32, setting.dtype)):
        make = partial(torch.randn, device=setting.device, dtype=dtype)
        result[f"matmul, {short(dtype)}"] = 2 * n**3, partial(torch.mm, make(n, n), make(n, n))
        for layout, memory_format in LAYOUTS.items():
            picture = make(batch, channels, size, size).contiguous(memory_format=memory_format)
            weight = make(channels, channels, 3, 3).contiguous(memory_format=memory_format)
            flops = 2 * 9 * channels**2 * batch * size**2
            result[f"convolution {layout}, {short(dtype)}"] = flops, partial(F.conv2d, picture, weight, padding=1)
    return result


def count_flops(call: Callable[[], object]) -> int:
    """FLOPs of the convolutions, matmuls and attentions of a call, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def check_flop_counter(setting: Setting) -> None:
    """Hold the counter to closed forms of each kind: an operation it does not know would count as free.

    Raises:
        RuntimeError: it miscounts on this device.
    """
    make = partial(torch.randn, device=setting.device, dtype=setting.dtype)
    x, weight, q = make(2, 16, 8, 8), make(32, 16, 3, 3), make(2, 4, 64, 32)
    bias = torch.zeros(2, 1, 1, 64, device=setting.device, dtype=setting.dtype)
    expected = {
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 2 * 2 * 32 * 8 * 8 * 16 * 9),
        "matmul": (lambda: F.linear(q, q[0, 0]), 2 * 2 * 4 * 64 * 64 * 32),
        "attention": (lambda: F.scaled_dot_product_attention(q, q, q, bias), 2 * 2 * 2 * 4 * 64 * 64 * 32),
    }
    for kind, (call, flops) in expected.items():
        if (counted := count_flops(call)) != flops:
            raise RuntimeError(
                f"the FLOP counter of torch {torch.__version__} counts {counted} for a {kind} of {flops}"
            )


def shares(setting: Setting, call: Callable[[], object]) -> dict[str, float]:
    """Where the time of a call goes, in percent by kind of operation."""
    cuda = setting.device.type == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it narrates
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        call()
        setting.synchronize()
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        if event.device_type.name != "CPU":
            continue  # a kernel, whose time the operation that launched it has already
        name = event.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")
        spent[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    return {kind: 100 * spent[kind] / spent.total() for kind in (*KINDS, "other")}


def short(dtype: torch.dtype) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def measure(setting: Setting, repeats: int) -> dict[str, Any]:
    """Everything the table shows."""
    check_flop_counter(setting)
    networks = {layout: calls(setting, LAYOUTS[layout]) for layout in LAYOUTS}
    steps = {
        (name, mode, layout): partial(step, setting, *networks[layout][name], mode)
        for mode, name, layout in product(MODES, ("ours", "diffusers"), LAYOUTS)
    }
    machine = peaks(setting)
    timed = {" / ".join(key): call for key, call in steps.items()} | {name: call for name, (_, call) in machine.items()}
    seconds = interleave(timed, repeats, setting.synchronize)

    rates = {name: flops / median(seconds[name]) / 1e9 for name, (flops, _) in machine.items()}
    peak = max(rate for name, rate in rates.items() if name.startswith("conv") and name.endswith(short(setting.dtype)))
    report: dict[str, Any] = {"machine GFLOP/s": rates}
    best: dict[tuple[str, str], list[float]] = {}
    for name, mode in product(("ours", "diffusers"), MODES):
        layout = min(LAYOUTS, key=lambda layout: median(seconds[f"{name} / {mode} / {layout}"]))
        call = steps[name, mode, layout]
        best[name, mode] = seconds[f"{name} / {mode} / {layout}"]
        flops = count_flops(call)
        report[f"{name}, {mode}"] = {
            "parameters": sum(p.numel() for p in networks[layout][name][0].parameters()),
            "GFLOPs": flops / 1e9,
            "layout": layout,
            "ms": 1000 * median(best[name, mode]),
            "% of convolution peak": 100 * flops / median(best[name, mode]) / 1e9 / peak,
            **{f"% {kind}": share for kind, share in shares(setting, call).items()},
        }
    report["ours / diffusers"] = {mode: ratio(best["ours", mode], best["diffusers", mode]) for mode in MODES}
    return report


def show(report: dict[str, Any]) -> None:
    """Print the report: the machine, a table with one column a network and mode, and the ratios."""
    rates: dict[str, float] = report["machine GFLOP/s"]
    print("machine, GFLOP/s: " + "; ".join(f"{name} {rate:.0f}" for name, rate in rates.items()))
    columns = {key: report[key] for key in (f"{name}, {mode}" for mode in MODES for name in ("ours", "diffusers"))}
    print("".join([f"{'':24}", *(f"{key:>21}" for key in columns)]))
    for row in next(iter(columns.values())):
        values = (column[row] for column in columns.values())
        cells = (v if isinstance(v, str) else f"{v:,}" if isinstance(v, int) else f"{v:.1f}" for v in values)
        print("".join([f"{row:24}", *(f"{cell:>21}" for cell in cells)]))
    print("time, ours / diffusers: " + ", ".join(f"{mode} {r:.2f}" for mode, r in report["ours / diffusers"].items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--channels", type=int, default=64, help="at full resolution; a multiple of 64")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the report as JSON too")
    args = parser.parse_args()
    for name, unit in {"resolution": 4, "batch_size": 1, "channels": 64, "threads": 1, "repeats": 1}.items():
        if (value := getattr(args, name)) < 1 or value % unit:
            parser.error(f"--{name.replace('_', '-')} must be a positive multiple of {unit}, got {value}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, and torch sees no CUDA device")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    setting = Setting(
        torch.device(args.device), getattr(torch, args.dtype), args.batch_size, args.resolution, args.channels
    )
    where = f"{args.device}, {args.threads} threads, torch {torch.__version__}"
    print(f"{args.batch_size} x {args.resolution}², {args.dtype}, {where}")
    report = measure(setting, args.repeats)
    show(report)
    if args.output:
        options = {key: value for key, value in vars(args).items() if key != "output"}
        args.output.write_text(json.dumps({**options, "torch": torch.__version__, **report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
