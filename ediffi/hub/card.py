"""The model card: what a model consists of, its samples and results, its limitations, and how to use it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ediffi.diffusion.noise import LogNormal
from ediffi.diffusion.weights import parameters
from ediffi.evaluation import model_index
from ediffi.evaluation.naming import measured_name, shown
from ediffi.evaluation.results import Results
from ediffi.hub.config import PACKAGE, listed_experts, packages

LIBRARY = "ediffi"
LIMITATIONS = """\
- The images reproduce the training data and its biases; nothing filters them.
- Prompts longer than the text encoders read are truncated; attributes of several objects may be mixed up.
- Numbers hold for the protocol that is given with them, and for no other."""


def card(
    repository: str,
    license: str,
    folder: Path,
    config: Mapping[str, Any],
    prompts: Sequence[str] = (),
    results: Mapping[str, Results] | None = None,
    recipes: Sequence[str] = (),
    about: str = "",
) -> str:
    """The text of `README.md`, with its metadata; the same arguments give the same text.

    `prompts` are those of the sample grid, none without it; `recipes` and the keys of `results` are paths in the
    repository; `about` is the text of the folder's own README.
    """
    from huggingface_hub import ModelCardData

    numbers = [one for found in (results or {}).values() for one in model_index.eval_results(found)]
    measured: dict[str, Any] = {"model_name": repository, "eval_results": numbers} if numbers else {}
    tags = [LIBRARY, model_index.TASK, "diffusion", "ensemble-of-experts"]
    data = ModelCardData(license=license, library_name=LIBRARY, pipeline_tag=model_index.TASK, tags=tags, **measured)
    stages = config["stages"]
    sections = {
        "": f"# {config['name']}\n\n{_lead(config)}\n\n{_grid(prompts)}",
        "Use": _use(repository, prompts, stages[0]["name"], _needed(config)),
        "Stages and experts": _stages(folder, config),
        "About": about,
        "Results": "\n\n".join(_numbers(path, found) for path, found in (results or {}).items()),
        "Recipes": "\n".join(f"- [{path}]({path})" for path in recipes),
        "Limitations": f"{LIMITATIONS}\n\nLicence: {license}. Written by `ediffi publish`.",
    }
    text = "\n\n".join(f"## {title}\n\n{body}" if title else body for title, body in sections.items() if body)
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{text}\n"


def _lead(config: Mapping[str, Any]) -> str:
    stages = config["stages"]
    way = " → ".join(f"{entry['resolution']}²" for entry in stages)
    experts = sum(len(entry["experts"]) for entry in stages)
    what = "A text-to-image cascade" if config["encoders"] else "A stage of a text-to-image cascade"
    return (
        f"{what} like eDiff-I (arXiv 2211.01324), {way}, with {experts} expert denoiser"
        f"{'s' if experts > 1 else ''} in {len(stages)} stage{'s' if len(stages) > 1 else ''}."
    )


def _grid(prompts: Sequence[str]) -> str:
    if not prompts:
        return "No samples: without encoders, or without a base stage, the model makes no image from a prompt."
    quoted = "; ".join(f"“{prompt}”" for prompt in prompts)
    return f"![samples](samples.png)\n\nSampled from this model with its own settings, seed 0: {quoted}."


def _needed(config: Mapping[str, Any]) -> str:
    """What pip has to install: this package, and the plug-ins of the model's parts, of the version or a later one."""
    recorded = config.get("packages") or packages(config["stages"], config["encoders"])
    found = [name.partition(" ") for name in sorted(set(recorded.values())) if PACKAGE.fullmatch(str(name))]
    return " ".join(["ediffi", *(f"'{name}>={number}'" if number else name for name, _, number in found)])


def _use(repository: str, prompts: Sequence[str], stage: str, needed: str) -> str:
    if not prompts:
        return (
            f"```bash\npip install {needed}\nediffi experts {repository}\n```\n\n"
            f"A schedule of `ediffi grow` starts from it with `trunk: {{model: {repository}, stage: {stage}}}`."
        )
    return (
        f'```bash\npip install {needed}\nediffi sample "{prompts[0]}" --model {repository} --output image.png\n```\n\n'
        "```python\nfrom ediffi import Cascade\n"
        f'Cascade.from_pretrained("{repository}")("{prompts[0]}").images[0].save("image.png")\n```'
    )


def _stages(folder: Path, config: Mapping[str, Any]) -> str:
    rows = ["| stage | pixels | network | expert of noise (sigma) | parameters | steps |", "|---|---|---|---|---|---|"]
    for entry in config["stages"]:
        noise = LogNormal(**entry["noise"])
        for row in listed_experts(entry):
            spans = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in noise.bounds(row.expert.interval))
            rows.append(
                f"| {entry['name']} | {entry['resolution']}² | {entry['denoiser']['name']} | {spans} "
                f"| {parameters(folder / row.file) / 1e6:.3g} M | {row.expert.steps or 'not recorded'} |"
            )
    encoders = ", ".join(f"{source} ({part['name']})" for source, part in config["encoders"].items())
    return "\n".join(rows) + f"\n\nEncoders: {encoders or 'none here'}. Weights: safetensors, hashes in config.json."


def _numbers(path: str, results: Results) -> str:
    names = list(dict.fromkeys(name for point in results.points for name in point.metrics))
    head = f"| {results.suite.get('name', 'suite')} | {' | '.join(measured_name(results, n) for n in names)} |"
    rows = [f"| {p.title} | {' | '.join(shown(name, p.metric(name)) for name in names)} |" for p in results.points]
    count = results.points[0].count if results.points else 0
    protocol = f"{count:,} images; the protocol is in [{path}/results.json]({path}/results.json)."
    return "\n".join([head, "|---" * (len(names) + 1) + "|", *rows]) + f"\n\n{protocol}"
