"""The fused attention kernel against three plain steps, on the CPU: the evidence behind `attend`'s dispatch.

    python benchmarks/attention_kernel.py [--threads N] [--repeats 9] [--output attention.json]

Both compute `softmax(QKᵀ/√d + bias)·V`. The ratio is plain / fused: above 1 the fused kernel wins.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from ediffi.registry.denoisers.attention import attend

PAPER_KEYS = 77 + 113 + 2  # CLIP text, T5, one picture token, the null token
SHAPES = [
    (64, 30, True),
    (64, PAPER_KEYS, True),
    (64, 64, False),
    (256, 30, True),
    (256, PAPER_KEYS, True),
    (256, 256, False),
]
CALLS = 5  # between two looks at the clock
Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Matmul, softmax, matmul: the path `attend` takes for bfloat16 on a CPU."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's own kernel."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def interleave(
    calls: dict[str, Callable[[], object]], repeats: int, synchronize: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each call in A B A B order, so that a machine that speeds up or slows down does so for all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            if round_ > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the ratios of neighbours in time."""
    return median(a / b for a, b in zip(numerator, denominator, strict=True))


def inputs(
    queries: int, keys: int, biased: bool, dtype: torch.dtype, batch: int = 32, heads: int = 4, channels: int = 32
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Leaves q, k, v [b, m, n, d], and a bias [b, 1, 1, k] that hides a third of the keys of every other sample."""

    def draw(count: int) -> Tensor:  # a slice of a joint projection, as in the network
        return torch.randn(batch, count, 3, heads, channels, dtype=dtype)[:, :, 0].transpose(1, 2).requires_grad_()

    q, k, v = draw(queries), draw(keys), draw(keys)
    if not biased:
        return q, k, v, None
    bias = torch.zeros(batch, 1, 1, keys, dtype=dtype)
    bias[::2, ..., -keys // 3 :] = -math.inf
    return q, k, v, bias


def measure(queries: int, keys: int, biased: bool, dtype: torch.dtype, repeats: int) -> dict[str, object]:
    """One row of the table: plain / fused, forward and training, and the path that `attend` takes."""
    q, k, v, bias = inputs(queries, keys, biased, dtype)
    upstream = torch.randn_like(q)

    def forward(attention: Attention) -> None:
        with torch.no_grad():
            for _ in range(CALLS):
                attention(q, k, v, bias)

    def train(attention: Attention) -> None:
        for _ in range(CALLS):
            torch.autograd.grad(attention(q, k, v, bias), (q, k, v), upstream)

    torch.testing.assert_close(plain(q, k, v, bias), fused(q, k, v, bias), atol=2e-2, rtol=2e-2)
    takes = [kernel.__name__ for kernel in (plain, fused) if torch.equal(attend(q, k, v, bias), kernel(q, k, v, bias))]
    ratios = {}
    for name, step in {"forward": forward, "training": train}.items():
        seconds = interleave({"plain": partial(step, plain), "fused": partial(step, fused)}, repeats)
        ratios[name] = ratio(seconds["plain"], seconds["fused"])
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "queries": queries,
        "keys": keys,
        "bias": biased,
        **ratios,
        "attend": " or ".join(takes),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, help="write the table as JSON too")
    args = parser.parse_args()
    if args.threads < 1 or args.repeats < 1:
        parser.error("--threads and --repeats must be at least 1")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    print(f"plain / fused, {args.threads} threads, torch {torch.__version__}; above 1 the fused kernel wins")
    print(f"{'dtype':10}{'queries':>8}{'keys':>6}{'bias':>6}{'forward':>9}{'training':>10}  attend takes")
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        for queries, keys, biased in SHAPES:
            row = measure(queries, keys, biased, dtype, args.repeats)
            rows.append(row)
            print(
                f"{row['dtype']:10}{queries:8}{keys:6}{'yes' if biased else 'no':>6}"
                f"{row['forward']:9.2f}{row['training']:10.2f}  {row['attend']}"
            )
    if args.output:
        args.output.write_text(
            json.dumps({"threads": args.threads, "torch": torch.__version__, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
