"""What a GPU does with the paper's networks: train, load, sample, paint, against the targets. One JSON line a result.

    python benchmarks/gpu.py [--only NAME ...] [--seconds 200] [--each 90] [--output gpu.jsonl]
    python benchmarks/gpu.py --dry [--only NAME ...]

A line has name, value, unit, target, pass, device and torch; `pass` is null without a target, and in a dry run, which
runs the same code on a CPU with tiny networks. A check that fails becomes a line with its error, and so does one that
takes longer than `--each`, or what does not fit into `--seconds`; the next check runs. Exit code 1 if a target was
missed or a check failed.

Training is Lightning's loop over `DiffusionStage` as in the paper's recipes (compiled part by part, bf16-mixed, AdamW,
EMA) on one batch again and again; `toybox` reads shards. MFU is the share of an H100's 989 TFLOP/s in bfloat16, by the
FLOPs of an eager step without recomputation. The peer is diffusers' `UNet2DConditionModel`, compiled block by block, of
about the same FLOPs, in the same loop; the two are compared by MFU. Weights are random, which time does not see. There
are no encoders: their weights are not shipped.
"""

import argparse
import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from attention_kernel import interleave, ratio
from gpu_parts import DRY, PAPER, Network, peer, step_flops, synchronize, train, train_repeated, write_cascade
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ediffi.data.module import ShardData
from ediffi.diffusion.experts import in_dtype
from ediffi.diffusion.guidance import ClassifierFreeGuidance
from ediffi.diffusion.paint import PaintWithWords
from ediffi.hub import models
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import Residency
from ediffi.registry.denoisers import unet_toybox
from ediffi.registry.denoisers.precondition import Preconditioned
from ediffi.registry.random import Philox
from ediffi.toybox.shards import write_toybox
from ediffi.training.lightning_module import DiffusionStage

PEAK = 989e12
"""FLOP/s of an H100 SXM in bfloat16, dense."""
MODULES: tuple[str, ...] = ("open_clip", "ftfy", "wcwidth", "webdataset", "braceexpand", "jsonargparse")
MODULES += ("docstring_parser", "typeshed_client", "importlib_metadata", "pydantic", "diffusers")
"""What a CUDA image with torch, transformers and lightning may lack; README.md beside this file has their wheels."""


class Row(NamedTuple):
    """A result; the target is a bound of the value, from above for seconds, milliseconds and ratios of cost."""

    name: str
    value: float | str
    unit: str
    target: tuple[str, float] | None = None


@dataclass
class Bench:
    """What the checks share."""

    dry: bool
    folder: Path
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.device = torch.device("cpu" if self.dry else "cuda")
        self.networks: dict[str, Network] = DRY if self.dry else PAPER
        self.repeats = 1 if self.dry else 5
        self.mfu: dict[str, float] = {}
        """Of our networks, as they were measured, for the comparison with their peers."""

    def loaded(self, network: Network) -> nn.Module:
        """A network as a cascade in bfloat16 has it."""
        built = network.build(self.device).eval().requires_grad_(False)
        return in_dtype(built.to(memory_format=torch.channels_last), torch.bfloat16)

    def seconds(self, call: Callable[[], object]) -> float:
        """Median time of a call, after one that warms up."""
        return median(interleave({"call": call}, self.repeats, synchronize)["call"])

    def reset_memory(self) -> None:
        """Forget what earlier checks left."""
        gc.collect()
        torch.compiler.reset()
        if not self.dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> float:
        """GB on the device since the last reset."""
        return 0.0 if self.dry else torch.cuda.max_memory_allocated() / 1e9

    def load(self, folder: Path, residency: Residency = "resident", compile: bool = False) -> Cascade:
        """A model folder in bfloat16 on the device."""
        return Cascade.from_pretrained(folder, self.device, residency, dtype="bfloat16", compile=compile)

    def cascade(self, experts: bool = False) -> Path:
        """A model folder, written once."""
        folder = self.folder / ("experts" if experts else "cascade")
        if not folder.exists():
            write_cascade(folder, self.networks, self.device, experts)
            self.reset_memory()
        return folder


def machine(bench: Bench) -> Iterator[Row]:
    """What the device does at its best, and what this environment lacks."""
    n = 64 if bench.dry else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    yield Row("matmul, bfloat16", 2 * n**3 / bench.seconds(partial(torch.mm, a, b)) / 1e12, "TFLOP/s")
    batch, width, side = (1, 16, 8) if bench.dry else (64, 256, 64)
    x, w = torch.randn(batch, width, side, side), torch.randn(width, width, 3, 3)
    for name, layout in (("channels last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        one, other = (t.to(bench.device, torch.bfloat16, memory_format=layout) for t in (x, w))
        seconds = bench.seconds(partial(torch.nn.functional.conv2d, one, other, padding=1))
        yield Row(f"3x3 convolution, {name}", 2 * 9 * width**2 * batch * side**2 / seconds / 1e12, "TFLOP/s")
    yield Row("modules missing", ", ".join(m for m in MODULES if importlib.util.find_spec(m) is None) or "none", "")


def load(bench: Bench) -> Iterator[Row]:
    """Load the paper's three networks, 2.8 GB in bfloat16, from the page cache to the device, every byte hashed."""
    folder = bench.cascade()
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
    torch.zeros(1, device=bench.device)
    bench.reset_memory()
    started = time.perf_counter()
    cascade = bench.load(folder)
    synchronize()
    yield Row("load the cascade", time.perf_counter() - started, "s", ("<=", 3.0))
    yield Row("load the cascade, size", size, "GB")
    yield Row("load the cascade, peak memory", bench.peak_memory(), "GB")
    del cascade


def stream(bench: Bench) -> Iterator[Row]:
    """Three experts of the base stage, streamed and resident: the same bits, the time, and the memory."""
    folder, network = bench.cascade(experts=True), bench.networks["base64"]
    cond = network.cond(1, bench.device)
    images: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    ways: tuple[Residency, ...] = ("resident", "stream")
    for residency in ways:
        bench.reset_memory()
        stage = bench.load(folder, residency).stages[0]
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            images[residency] = stage(cond, Philox(0, [0]))
            synchronize()
            seconds[residency] = time.perf_counter() - started
        yield Row(f"base image, {residency}, peak memory", bench.peak_memory(), "GB")
        del stage
    same = float(torch.equal(images["resident"], images["stream"]))
    yield Row("streamed image equals resident", same, "1 is yes", (">=", 1.0))
    yield Row("base image, resident", seconds["resident"], "s")
    yield Row("base image, streamed / resident", seconds["stream"] / seconds["resident"], "")


def picture(bench: Bench, compile: bool = True) -> Iterator[Row]:
    """One 1024² image by all three stages at paper-steps (76 + 31 + 31 network calls), base guided, compiled."""
    bench.reset_memory()
    cascade = bench.load(bench.cascade(), compile=compile and not bench.dry)
    cond, took = bench.networks["base64"].cond(1, bench.device), {}

    def clock(stage: str, state: Any) -> None:
        if state.step == state.num_steps - 1:
            synchronize()
            took[stage] = time.perf_counter()

    for name in ("first", "second"):
        started = time.perf_counter()
        images = cascade.sample(cond, Philox(0, [0]), progress=clock)
        synchronize()
        if name == "first":
            yield Row("1024² image, the first", time.perf_counter() - started, "s")
    yield Row("1024² image", time.perf_counter() - started, "s", ("<=", 4.0))
    for stage, ended in took.items():
        yield Row(f"1024² image, {stage}", ended - started, "s")
        started = ended
    yield Row("1024² image, peak memory", bench.peak_memory(), "GB")
    yield Row("1024² image, finite", float(images["sr1024"].isfinite().all()), "1 is yes", (">=", 1.0))


def eager_picture(bench: Bench) -> Iterator[Row]:
    """`picture` without the compiler, which takes minutes before the first one."""
    for row in picture(bench, compile=False):
        yield row._replace(name=f"{row.name}, eager", target=None)


def paint(bench: Bench) -> Iterator[Row]:
    """A guided step with two painted phrases against one without."""
    for name, batch in (("base64", 8), ("sr256", 4)):
        bench.reset_memory()
        network = bench.networks[name]
        batch = 1 if bench.dry else batch
        step = ClassifierFreeGuidance(PaintWithWords(bench.loaded(network), 1.0), 3.0)
        x, sigma, _ = network.call(batch, bench.device)
        conds = {kind: network.cond(batch, bench.device, kind == "painted") for kind in ("plain", "painted")}
        with torch.inference_mode():
            calls: dict[str, Callable[[], object]] = {k: partial(step, x, sigma, cond) for k, cond in conds.items()}
            seconds = interleave(calls, bench.repeats, synchronize)
        cost = ratio(seconds["painted"], seconds["plain"])
        yield Row(f"{name}, painted step / plain, batch {batch}", cost, "", ("<=", 1.10))


def training(bench: Bench, name: str, target: float) -> Iterator[Row]:
    """A compiled training step and its MFU."""
    network = bench.networks[name]
    bench.reset_memory()
    bench.mfu[name] = yield from compiled_step(bench, network, network.build(bench.device), name, (">=", target))


def peers(bench: Bench) -> Iterator[Row]:
    """The same of diffusers' compiled peers, and the ratio of the MFUs, for the networks whose own is known."""
    if importlib.util.find_spec("diffusers") is None:
        return
    for name, ours in bench.mfu.items():
        network = bench.networks[name]
        bench.reset_memory()
        theirs = yield from compiled_step(bench, network, peer(network, bench.device), f"{name}'s peer", None)
        yield Row(f"{name}, MFU ours / peer", ours / theirs, "", (">=", 1.5))


def compiled_step(
    bench: Bench, network: Network, denoiser: Preconditioned, label: str, target: tuple[str, float] | None
) -> Generator[Row, None, float]:
    """Rows of a compiled training step; its MFU."""
    flops = step_flops(denoiser, network, bench.device) * network.batch
    steps = 2 if bench.dry else 8
    clock = train_repeated(network, denoiser, bench.device, bench.folder, not bench.dry, network.batch, steps)
    mfu = flops / clock.seconds / PEAK
    yield Row(f"{label}, training step of {network.batch}", 1000 * clock.seconds, "ms")
    yield Row(f"{label}, training", network.batch / clock.seconds, "images/s")
    yield Row(f"{label}, MFU", mfu, "", target)
    yield Row(f"{label}, FLOPs of a step", flops / 1e12, "TFLOP")
    yield Row(f"{label}, first step with compilation", clock.first, "s")
    yield Row(f"{label}, peak memory", bench.peak_memory(), "GB")
    return mfu


def toybox(bench: Bench) -> Iterator[Row]:
    """Toybox's base stage as its recipe trains it, from shards, compiled and in bf16-mixed."""
    bench.reset_memory()
    shards, scenes = bench.folder / "shards", 32 if bench.dry else 2048
    write_toybox(shards, models.SHIPPED / "toybox" / "encoders", 64, scenes, samples_per_shard=scenes // 16)
    workers = 0 if bench.dry else max(1, min(14, (os.cpu_count() or 2) - 2))
    batch, steps = (4, 2) if bench.dry else (128, 300)
    data = ShardData(shards, shards, 16, batch_size=batch, num_workers=workers, lanes=max(1, workers), chunk=batch)
    stage = DiffusionStage(unet_toybox(sigma_data=0.6), compile=not bench.dry)
    clock = train(stage, data, bench.device, bench.folder, 2 if bench.dry else 50, steps)
    yield Row("toybox base, training", batch / clock.seconds, "images/s", (">=", 15_000.0))
    yield Row(f"toybox base, training step of {batch}", 1000 * clock.seconds, "ms")
    yield Row("toybox base, first step with compilation", clock.first, "s")


def forward(bench: Bench) -> Iterator[Row]:
    """Eager network calls in bfloat16, as in sampling without compilation."""
    rows = [("base64", 8, None), ("base64", 32, None), ("base64", 64, None), ("sr1024", 1, 1024)]
    for name, batch, side in rows:
        bench.reset_memory()
        network = bench.networks[name]
        batch, side = (1, None) if bench.dry else (batch, side)
        denoiser = bench.loaded(network)
        arguments = network.call(batch, bench.device, side)
        with torch.inference_mode():
            label, call = f"{name}, forward, {batch} x {arguments[0].shape[-1]}²", partial(denoiser, *arguments)
            yield Row(label, 1000 * bench.seconds(call), "ms")
            yield Row(f"{label}, launches", launches(call), "")
        del denoiser


def launches(call: Callable[[], object]) -> int:
    """Kernels and graphs that a call sends to the GPU."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        synchronize()
    return sum(event.count for event in profiler.key_averages() if event.key.startswith(("cudaLaunch", "cuLaunch")))


def eager(bench: Bench) -> Iterator[Row]:
    """Training steps of the base network without compilation: at batch 32, and 8 with checkpointing."""
    network = bench.networks["base64"]
    for batch, checkpointing in ((32, False), (8, True)):
        bench.reset_memory()
        batch = 2 if bench.dry else batch
        denoiser = network.build(bench.device, gradient_checkpointing=checkpointing)
        steps = 1 if bench.dry else 5
        clock = train_repeated(network, denoiser, bench.device, bench.folder, False, batch, steps)
        words = ", checkpointed" if checkpointing else ""
        yield Row(f"base64, eager training step of {batch}{words}", 1000 * clock.seconds, "ms")
        del denoiser


def right(bench: Bench) -> Iterator[Row]:
    """The shipped Toybox on the device against the CPU, in float32."""
    steps = 2 if bench.dry else None
    images = []
    torch.backends.cudnn.allow_tf32 = False
    for device in ("cpu", bench.device):
        cascade = Cascade.from_pretrained("toybox", device, stages=["base"])
        images.append(cascade("a red circle", seed=3, num_inference_steps=steps).stages["base"].cpu())
    yield Row("Toybox, device against CPU", float((images[0] - images[1]).abs().max()), "of [-1, 1]", ("<=", 1e-3))


CHECKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "machine": machine,
    "base64": partial(training, name="base64", target=0.40),
    "sr256": partial(training, name="sr256", target=0.35),
    "sr1024": partial(training, name="sr1024", target=0.35),
    "picture": picture,
    "paint": paint,
    "load": load,
    "toybox": toybox,
    "peers": peers,
    "stream": stream,
    "forward": forward,
    "right": right,
    "eager": eager,
    "eager_picture": eager_picture,
}
"""What matters most comes first, in case the time is short."""


def met(row: Row, dry: bool) -> bool | None:
    """Whether the value is within its target; None without one, and in a dry run, whose sizes have none."""
    if row.target is None or dry:
        return None
    sign, bound = row.target
    return float(row.value) <= bound if sign == "<=" else float(row.value) >= bound


def late(*_: Any) -> None:
    """Interrupt the check that runs when its time is over."""
    raise TimeoutError("not finished when the time was over")


def run(bench: Bench, names: list[str], seconds: float, each: float) -> Iterator[dict[str, Any]]:
    """The lines of the checks: their rows, and the error of one that fails or comes too late."""
    device = "cpu" if bench.dry else torch.cuda.get_device_name()
    where, begun = {"device": device, "torch": torch.__version__}, time.perf_counter()
    signal.signal(signal.SIGALRM, late)
    for name in names:
        line: dict[str, Any] = {"check": name}
        try:
            left = begun + seconds - time.perf_counter()
            if left <= 0:
                late()
            # again and again: a library may catch the first
            signal.setitimer(signal.ITIMER_REAL, min(each, left), 5.0)
            for row in CHECKS[name](bench):
                value = row.value if isinstance(row.value, str) else float(f"{row.value:.4g}")
                target = None if row.target is None else f"{row.target[0]} {row.target[1]:g}"
                result = {
                    "name": row.name,
                    "value": value,
                    "unit": row.unit,
                    "target": target,
                    "pass": met(row, bench.dry),
                }
                yield line | result | where | {"at": round(time.perf_counter() - begun, 1)}
        except Exception as error:  # whatever it is, the other checks still have something to say
            signal.setitimer(signal.ITIMER_REAL, 0)
            told = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            yield line | {"name": name, "value": None, "unit": "", "target": None, "pass": False, "error": told} | where
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    """Print the lines; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="these checks")
    parser.add_argument("--seconds", type=float, default=200.0, help="in which all has to be done")
    parser.add_argument("--each", type=float, default=90.0, help="in which a check has to be done")
    parser.add_argument("--dry", action="store_true", help="tiny networks on a CPU")
    parser.add_argument("--output", type=Path, help="write the lines into a file too")
    args = parser.parse_args()
    if not args.dry and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry runs the same code on a CPU")
    folder, passed, lines = Path(tempfile.mkdtemp(prefix="ediffi-gpu-")), True, []
    try:
        for line in run(Bench(args.dry, folder), args.only, args.seconds, args.each):
            lines.append(json.dumps(line))
            print(lines[-1], flush=True)
            passed &= line["pass"] is not False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if args.output:
            args.output.write_text("\n".join(lines) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
