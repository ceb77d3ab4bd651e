"""What capacity costs (eDiff-I, figure 13, in small): a wider net, a deeper net, experts resident, experts streamed.

    python benchmarks/expert_cost.py [--channels 64] [--resolution 32] [--steps 24] [--factors 1 2 4 8] [--rounds 5]
        [--device cpu|cuda] [--output benchmarks/results/expert_cost.json]

Capacity is counted in parameters, in multiples of one base network (an ADM U-Net as the paper's, small). Time is of a
whole picture, divided by its steps: in every round each contestant paints one, in turn, and is compared with the single
network of the same round; medians of the rounds are told. Memory is the peak of a process of its own that loads the
model folder and paints one picture, less what the process held before. Beside the JSON a plot is written.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import Interval, LogNormal
from ediffi.hub.config import Part
from ediffi.pipeline.checkpoint import Residency, load_cascade
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade
from ediffi.registry import denoisers
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, Embedding

CONTEXT, TOKENS = 128, 77
KINDS = ("wider", "deeper", "experts resident", "experts streamed")


def arguments(kind: str, factor: int, channels: int) -> dict[str, Any]:
    """The network of a contestant: about `factor` times the base network's parameters, where `kind` changes it."""
    width = round(channels * factor**0.5 / 16) * 16 if kind == "wider" else channels
    return {
        "channels": width,
        "channel_mults": [1, 2, 3],
        "num_res_blocks": _depth(factor) if kind == "deeper" else 2,
        "attention_levels": [1, 2],
        "head_channels": 32 if width % 32 == 0 else 16,
        "norm_groups": 8,
        "context_width": CONTEXT,
        "tokens": {"t5": CONTEXT},
        "pooled": {},
    }


def _depth(factor: int) -> int:
    """Residual blocks a level that make the net about `factor` times as large as with 2."""
    return round(2 + 3.42 * (factor - 1))


def write_model(place: Path, kind: str, factor: int, options: argparse.Namespace) -> int:
    """A model folder of random weights; returns the parameters of all its experts."""
    torch.manual_seed(factor)
    part = Part("unet_base64", arguments(kind, factor, options.channels))
    count = factor if kind.startswith("experts") else 1
    level = count.bit_length() - 1
    build = {key: tuple(v) if isinstance(v, list) else v for key, v in part.arguments.items()}
    network = denoisers.create(part.name, **build)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    experts = [TrainedExpert(Expert(Interval(level, index)), network.state_dict()) for index in range(count)]
    sampling = Sampling("euler", options.steps)
    stage = TrainedStage("base", options.resolution, part, LogNormal(), experts, sampling)
    save_cascade(place, f"{kind} x{factor}", {}, None, [stage])
    return count * sum(parameter.numel() for parameter in network.parameters())


def load(place: Path, kind: str, device: str) -> Stage:
    residency: Residency = "stream" if kind == "experts streamed" else "resident"
    return load_cascade(place, device, residency).stages[0]


def paint(stage: Stage, device: str) -> float:
    """Paint one picture and return the seconds."""
    tokens = torch.ones(1, TOKENS, CONTEXT, device=device)
    cond = Conditioning({"t5": Embedding(tokens, torch.ones(1, TOKENS, dtype=torch.bool, device=device))})
    started = time.perf_counter()
    stage(cond, Philox(0, range(1)))
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def memory(field: str) -> float:
    """Memory of this process in MB, from Linux: VmRSS is now, VmHWM the peak since the last reset."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


def child(place: str, kind: str, device: str) -> None:
    """Load, paint once, and print the memory in MB: of the process, or of the accelerator."""
    torch.rand(8, 8) @ torch.rand(8, 8)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    paint(load(Path(place), kind, device), device)
    cuda = device.startswith("cuda")
    print(json.dumps({"memory": torch.cuda.max_memory_allocated() / 2**20 if cuda else memory("VmHWM") - before}))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a contestant."""
    rows: list[dict[str, Any]] = []
    stages: list[Stage] = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            for factor in options.factors:
                place = Path(scratch) / f"{kind}-{factor}"
                row = {"kind": kind, "factor": factor, "parameters": write_model(place, kind, factor, options)}
                words = [sys.executable, __file__, "--child", str(place), kind, "--device", options.device]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                rows.append(row | json.loads(done.stdout) | {"seconds": []})
                stages.append(load(place, kind, options.device))
                paint(stages[-1], options.device)
                print(f"{kind} x{factor}: {row['parameters'] / 1e6:.1f} M, {rows[-1]['memory']:.0f} MB", flush=True)
        for number in range(options.rounds):
            for row, stage in zip(rows, stages, strict=True):
                row["seconds"].append(paint(stage, options.device))
            print(f"round {number + 1} of {options.rounds}", flush=True)
    single = next(row for row in rows if row["kind"] == "experts resident" and row["factor"] == 1)
    for row in rows:
        ratios = [a / b for a, b in zip(row["seconds"], single["seconds"], strict=True)]
        row |= {"time ratio": median(ratios), "spread": [min(ratios), max(ratios)]}
        row["memory ratio"] = row["memory"] / single["memory"]
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for kind, marker in zip(KINDS, "^sox", strict=True):
        own = [row for row in rows if row["kind"] == kind]
        capacity = [row["parameters"] / 1e6 for row in own]
        for axes, key in ((left, "time ratio"), (right, "memory ratio")):
            axes.plot(capacity, [row[key] for row in own], marker=marker, label=kind)
    left.set(xlabel="parameters, millions", ylabel="time per step, single net = 1", xscale="log", yscale="log")
    right.set(xlabel="parameters, millions", ylabel="peak memory, single net = 1", xscale="log", yscale="log")
    left.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2, 4, 8], help="powers of 2, 1 among them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/expert_cost.json"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.device)
        return
    rows = measure(options)
    print(f"{'':<18} {'factor':>6} {'params':>9} {'time':>6} {'min':>6} {'max':>6} {'memory':>7}")
    for r in rows:
        print(
            f"{r['kind']:<18} {r['factor']:>6} {r['parameters'] / 1e6:>7.1f} M {r['time ratio']:>6.3f} "
            f"{r['spread'][0]:>6.3f} {r['spread'][1]:>6.3f} {r['memory ratio']:>7.3f}"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        json.dumps({"torch": torch.__version__, "device": options.device, "rows": rows}, indent=1)
    )
    plot(rows, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
