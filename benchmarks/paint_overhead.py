"""What paint-with-words costs: the time of a guided step with two painted phrases against one without.

    python benchmarks/paint_overhead.py [--threads N] [--repeats 7] [--sizes toybox paper] [--output paint.json]

A step is one guided network call (the conditional and the unconditional half as one batch), of the Toybox base network
at 16² and of the paper's at 64² with its 77 + 113 + 1 tokens; weights are random, which the time does not see.
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path
from statistics import median

import torch
from attention_kernel import interleave
from torch import Tensor

from ediffi.diffusion.guidance import ClassifierFreeGuidance
from ediffi.diffusion.paint import PaintWithWords
from ediffi.registry import denoisers
from ediffi.registry.types import Conditioning, Embedding, Paint

SIZES = {
    "toybox": ("unet_toybox", 16, 8, {"clip_text": (14, 128), "t5": (13, 128), "clip_image": (1, 128)}),
    "paper": ("unet_base64", 64, 1, {"clip_text": (77, 768), "t5": (113, 4096), "clip_image": (1, 768)}),
}
"""Denoiser, side of its pictures, pictures in a step, and the tokens and width of each source."""
PHRASES = 2


def conditioning(tokens: dict[str, tuple[int, int]], batch: int, painted: bool) -> Conditioning:
    """Random embeddings; with paint, two phrases of three tokens in the left and the right half."""
    sources = {}
    for name, (count, width) in tokens.items():
        pooled = None if name == "t5" else torch.randn(batch, width)
        mask = torch.ones(batch, count, dtype=torch.bool)
        sources[name] = Embedding(torch.randn(batch, count, width), mask, pooled)
    if not painted:
        return Conditioning(sources)
    areas = torch.zeros(batch, PHRASES, 256, 256)
    areas[:, 0, :, :128], areas[:, 1, :, 128:] = 1, 1
    keys = {name: torch.zeros(batch, PHRASES, tokens[name][0]) for name in ("clip_text", "t5")}
    for key in keys.values():
        key[:, 0, 2:5], key[:, 1, 6:9] = 1, 1
    return Conditioning(sources, paint=Paint(areas, keys, torch.ones(batch)))


def measure(size: str, repeats: int) -> dict[str, object]:
    """One row: painted / plain, as pairs of neighbours in time."""
    name, side, batch, tokens = SIZES[size]
    with torch.inference_mode():
        network = denoisers.create(name).to(memory_format=torch.channels_last).eval()
        step = ClassifierFreeGuidance(PaintWithWords(network, 1.0), 3.0)
        x, sigma = torch.randn(batch, 3, side, side), torch.full((batch,), 2.0)
        conds = {"plain": conditioning(tokens, batch, False), "painted": conditioning(tokens, batch, True)}

        def call(cond: Conditioning) -> Tensor:
            return step(x, sigma, cond)

        seconds = interleave({key: partial(call, cond) for key, cond in conds.items()}, repeats)
    ratios = [a / b for a, b in zip(seconds["painted"], seconds["plain"], strict=True)]
    return {
        "size": size,
        "pictures": f"{batch} x {side}²",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--output", type=Path, help="write the table as JSON too")
    args = parser.parse_args()
    if args.threads < 1 or args.repeats < 1:
        parser.error("--threads and --repeats must be at least 1")
    torch.set_num_threads(args.threads)
    print(f"painted / plain, {args.threads} threads, torch {torch.__version__}")
    rows = []
    for size in args.sizes:
        rows.append(row := measure(size, args.repeats))
        print(
            f"{size:8} {row['pictures']:>9} {row['parameters'] / 1e6:7.1f} M  {row['ratio']:.3f} "  # type: ignore[operator]
            f"({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
        )
    if args.output:
        machine = {"threads": args.threads, "torch": torch.__version__, "machine": platform.machine()}
        args.output.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
