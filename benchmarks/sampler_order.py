"""Which sampler is nearest to the end of the ODE for so many network calls, on mixtures and on the trained net.

    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/sampler_order.py [--model mixtures] [--results benchmarks/results]
    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/sampler_order.py --model toybox [--guidance 3] [--calls 10 20]

Every registered sampler, with its defaults and in the variants below, on two grids, at 5 to 50 network calls: the root
mean square distance to a fine solution from the same noise. "mixtures" are exact denoisers of Gaussian mixtures in
float64, at guidance 1, 3 and 7.5; "toybox" is the base stage that ships, on held-out prompts, its pictures clipped to
[-1, 1]. A row is written as soon as it is done; the same command goes on where it was cut.
"""

import argparse
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ediffi.pipeline.stage import Sampling
from ediffi.registry import samplers
from ediffi.registry.random import Philox, randn
from ediffi.registry.types import Denoise
from reproduction.solver_distance import fine, solve, solver_distances, within_calls

CALLS = (5, 7, 10, 16, 20, 25, 40, 50)
KARRAS: Mapping[str, Any] = {"grid": "karras", "rho": 7.0}
VP_TIME: Mapping[str, Any] = {"grid": "vp_time", "rho": 3.0}
GRIDS = (KARRAS, VP_TIME)
Variants = tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...]
VARIANTS: Variants = (("deis", {"order": 2}, VP_TIME), ("exp_abm", {"order": 2}, VP_TIME))
MORE_VARIANTS: Variants = (
    *VARIANTS,
    ("exp_ab", {"order": 3}, VP_TIME),
    ("exp_abm", {"variable": "log_sigma"}, VP_TIME),
    ("exp_abm", {}, {"grid": "vp_time", "rho": 2.0}),
    ("exp_abm", {}, {"grid": "vp_time", "rho": 4.0}),
)
"""Samplers with other arguments than their defaults, or on other grids; more of them where a call costs nothing."""
WITNESSES = ({"sampler": "exp_abm", **VP_TIME},)
"""Another solver at as many calls: how far it ends from the reference says how much both are worth."""
DEFAULT = "dpmpp_2m on karras 7"


@dataclass(frozen=True)
class Problem:
    """What is sampled: a denoiser, starts, the ends of the noise, and the calls of the reference."""

    name: str
    guidance: float
    denoise: Denoise
    noise: Tensor
    sampling: Sampling
    limit: float | None
    reference_calls: int
    variants: Variants


def candidates(sampling: Sampling, variants: Variants) -> dict[str, Sampling]:
    """Every registered sampler on both grids, and the variants, by label."""
    everything = [(name, {}, grid) for grid in GRIDS for name in samplers.names()]
    found = {}
    for name, arguments, grid in [*everything, *variants]:
        label = " ".join([name, *(str(value) for value in arguments.values())])
        setting = replace(sampling, sampler=name, arguments=arguments, **grid)
        found[f"{label} on {grid['grid']} {grid['rho']:g}"] = setting
    return found


def mixture(seed: int, dim: int, components: int, spread: float, guidance: float) -> Denoise:
    """The exact denoiser of a mixture of Gaussians in [-1, 1]^dim; the condition prefers a third of the components."""
    generator = torch.Generator().manual_seed(seed)
    means, scales = torch.rand(2, components, dim, generator=generator, dtype=torch.float64)
    means, variances = 2 * means - 1, (spread * (0.5 + scales)).square()
    preference = torch.full((components,), -3.0, dtype=torch.float64)
    preference[: components // 3] = 0

    def denoised(x: Tensor, sigma: Tensor, logits: Tensor) -> Tensor:
        total = variances + sigma.square()[:, None, None]
        offsets = x[:, None] - means
        weights = (logits - (offsets.square() / total + total.log()).sum(-1) / 2).softmax(-1)
        return (weights[..., None] * (means + variances / total * offsets)).sum(1)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        unconditional = denoised(x, sigma, torch.zeros_like(preference))
        return unconditional + guidance * (denoised(x, sigma, preference) - unconditional)

    return denoise


def mixtures(options: argparse.Namespace) -> Iterator[Problem]:
    for guidance in options.guidance or (1.0, 3.0, 7.5):
        for seed, (dim, components, spread) in enumerate([(4, 6, 0.1), (16, 8, 0.15), (64, 12, 0.1)]):
            noise = randn((16, dim), Philox(options.seed, range(16)), dtype=torch.float64)
            denoise = mixture(options.seed + seed, dim, components, spread, guidance)
            yield Problem(f"mixture {seed}", guidance, denoise, noise, Sampling(), None, 1000, MORE_VARIANTS)


def toybox(options: argparse.Namespace) -> Iterator[Problem]:
    from ediffi.diffusion.guidance import ClassifierFreeGuidance
    from ediffi.evaluation.datasets.toybox import prompts
    from ediffi.pipeline.cascade import Cascade

    cascade = Cascade.from_pretrained("toybox")
    stage = cascade.stages[0]
    texts = [caption.text for _, caption in prompts(options.seed, options.prompts, "test", "short")]
    cond = cascade.encode(texts)
    side = (3, stage.resolution, stage.resolution)
    for guidance in options.guidance or (3.0, 1.0):
        guided = ClassifierFreeGuidance(stage.denoiser, guidance)
        yield Problem(
            "base",
            guidance,
            lambda x, sigma, guided=guided: guided(x, sigma, cond),  # type: ignore[misc]
            randn((len(texts), *side), Philox(options.seed, range(len(texts)))),
            Sampling(sigma_min=stage.sampling.sigma_min, sigma_max=stage.sampling.sigma_max),
            1.0,
            200,
            VARIANTS,
        )


PROBLEMS = {"mixtures": mixtures, "toybox": toybox}


def jobs(problem: Problem, budgets: Sequence[int]) -> dict[str, Sampling]:
    """Settings by the key of their row: problem, guidance, solver, calls; the witnesses of the reference last."""
    found = {}
    for calls in budgets:
        for label, setting in candidates(problem.sampling, problem.variants).items():
            found[f"{label} | {calls}"] = within_calls(setting, calls)
    for changes in WITNESSES:
        setting = within_calls(replace(problem.sampling, **changes), problem.reference_calls)
        found[f"witness {setting.sampler} | {problem.reference_calls}"] = setting
    return {f"{problem.name} | {problem.guidance:g} | {key}": setting for key, setting in found.items()}


def measure(problem: Problem, wanted: Mapping[str, Sampling], report: dict[str, Any], path: Path, bar: tqdm) -> None:
    """Add rows to the report, each written as soon as it is done."""
    settings = list(wanted.values())
    reference = referred(problem, path.with_suffix(".part")) if settings else problem.noise
    results = solver_distances(problem.denoise, problem.noise, settings, reference, problem.limit)
    for key, result in zip(wanted, results, strict=True):
        distances = [float(f"{distance:.3g}") for distance in result.distances.tolist()]
        report["rows"][key] = {"nfe": result.nfe, "distances": distances}
        write(report, path)
        bar.update()


def referred(problem: Problem, folder: Path) -> Tensor:
    """The fine solution of a problem, from the folder of a run that was cut, or made now."""
    file = folder / f"{problem.name} {problem.guidance:g}.safetensors"
    if file.is_file():
        return load_file(file)["reference"]
    reference = solve(problem.denoise, problem.noise, fine(problem.sampling, problem.reference_calls))
    folder.mkdir(exist_ok=True)
    save_file({"reference": reference.contiguous()}, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)
    return reference


def write(report: Mapping[str, Any], path: Path) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(report, indent=None).replace('}, "', '},\n"') + "\n")
    beside.replace(path)


def opened(path: Path, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The report so far.

    Raises:
        ValueError: it was made under another protocol.
    """
    if not path.is_file():
        return {"protocol": protocol, "torch": torch.__version__, "machine": platform.machine(), "rows": {}}
    report = json.loads(path.read_text())
    if report["protocol"] != protocol:
        raise ValueError(
            f"{path} has the protocol {report['protocol']}, asked is {protocol}; remove it or name another"
        )
    return dict(report)


def tabulated(report: Mapping[str, Any]) -> dict[float, dict[str, dict[int, Tensor]]]:
    """Logarithms of the distances, of all problems and starts, by guidance, solver and calls."""
    found: dict[float, dict[str, dict[int, list[float]]]] = {}
    for key, row in report["rows"].items():
        _, guidance, solver, calls = key.split(" | ")
        logs = [math.log(max(distance, 1e-30)) for distance in row["distances"]]
        found.setdefault(float(guidance), {}).setdefault(solver, {}).setdefault(int(calls), []).extend(logs)
    return {
        guidance: {
            solver: {calls: torch.tensor(logs, dtype=torch.float64) for calls, logs in by_calls.items()}
            for solver, by_calls in solvers.items()
        }
        for guidance, solvers in sorted(found.items())
    }


def typical(logs: Tensor) -> float:
    """Geometric mean of the distances."""
    return float(logs.mean().exp())


def tail(logs: Tensor) -> str:
    """Mean and largest distance: what the geometric mean forgives."""
    return f"{float(logs.exp().mean()):.1e}, largest {float(logs.exp().max()):.1e}"


def table(report: Mapping[str, Any]) -> str:
    """Distances by solver and calls for each guidance, then the best against the default, paired over the starts."""
    lines = []
    for guidance, solvers in tabulated(report).items():
        witnesses = {solver: rows for solver, rows in solvers.items() if solver.startswith("witness")}
        contest = {solver: rows for solver, rows in solvers.items() if solver not in witnesses}
        budgets = sorted(set.intersection(*(set(rows) for rows in contest.values())))
        lines += ["", f"guidance {guidance:g}".ljust(36) + "".join(f"{calls:>10}" for calls in budgets)]
        for solver, rows in contest.items():
            lines.append(solver.ljust(36) + "".join(f"{typical(rows[calls]):>10.2e}" for calls in budgets))
        for solver, rows in witnesses.items():
            lines += [f"{solver} at {calls}: {typical(logs):.1e}" for calls, logs in rows.items()]
        for calls in budgets:
            logs = {solver: rows[calls] for solver, rows in contest.items()}
            best = min(logs, key=lambda solver: typical(logs[solver]))
            ratio = logs[best] - logs[DEFAULT]
            spread = 1.96 * float(ratio.std()) / math.sqrt(len(ratio))
            low, middle, high = (math.exp(float(ratio.mean()) + sign * spread) for sign in (-1, 0, 1))
            lines.append(f"best at {calls}: {best}, {middle:.3f} ({low:.3f} to {high:.3f}) of {DEFAULT}")
            lines.append(f"  mean {tail(logs[best])} against mean {tail(logs[DEFAULT])}")
    return "\n".join(lines)


def plot(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = tabulated(report)
    figure, panels = pyplot.subplots(
        1, len(found), figsize=(4.2 * len(found), 4.2), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (guidance, solvers) in zip(panels[0], found.items(), strict=True):
        for index, name in enumerate(samplers.names()):
            for grid, style in zip(GRIDS, (":", "-"), strict=True):
                rows = solvers[f"{name} on {grid['grid']} {grid['rho']:g}"]
                label = name if style == "-" else None
                budgets = sorted(rows)
                values = [typical(rows[calls]) for calls in budgets]
                axes.loglog(budgets, values, style, color=f"C{index}", label=label, marker=".")
        axes.set_title(f"guidance {guidance:g}", fontsize=10)
        axes.set_xticks(CALLS, [str(calls) for calls in CALLS])
        axes.minorticks_off()
        axes.set_xlabel("network calls; dotted: karras, rho 7; solid: VP time, exponent 3", fontsize=8)
    panels[0][0].set_ylabel("distance to the fine solution (geometric mean)")
    panels[0][-1].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(PROBLEMS), default="mixtures")
    parser.add_argument("--guidance", type=float, nargs="+", help="default: 1 3 7.5 of mixtures, 3 1 of toybox")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS, help="network calls to spend")
    parser.add_argument("--prompts", type=int, default=16, help="held-out prompts, of toybox")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), help="folder of the JSON and the PNG"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.results / f"sampler_order_{args.model}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    problems = list(PROBLEMS[args.model](args))
    first = problems[0]
    protocol = {"model": args.model, "seed": args.seed, "starts": len(first.noise)}
    protocol |= {"noise": [first.sampling.sigma_min, first.sampling.sigma_max]}
    protocol |= {"reference": asdict(fine(first.sampling, first.reference_calls))}
    try:
        report = opened(path, protocol)
    except ValueError as error:
        parser.error(str(error))
    asked = [jobs(problem, args.calls) for problem in problems]
    missing = [{key: one for key, one in settings.items() if key not in report["rows"]} for settings in asked]
    every, left = (sum(map(len, settings)) for settings in (asked, missing))
    with tqdm(total=every, initial=every - left, unit="row", disable=None) as bar:
        for problem, wanted in zip(problems, missing, strict=True):
            measure(problem, wanted, report, path, bar)
    rmtree(path.with_suffix(".part"), ignore_errors=True)
    print(table(report))
    plot(report, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
