"""The model card: what a model consists of, what it paints, how it was judged, what it cannot do, how to use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ediffi.diffusion.noise import LogNormal
from ediffi.diffusion.streaming import parameters
from ediffi.evaluation import model_index
from ediffi.evaluation.naming import measured_name, shown
from ediffi.evaluation.results import Results
from ediffi.hub.config import listed_experts

LIBRARY = "ediffi"
TASK = model_index.TASK
TAGS = (LIBRARY, TASK, "diffusion", "ensemble-of-experts")
LIMITATIONS = """\
- It paints what it was trained on, and its biases; nothing filters what it paints.
- Prompts longer than its text encoders read are cut; what stands in a picture together may be mixed up.
- Numbers hold for the protocol they stand beside, and for no other.
"""


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        repository: "organisation/name".
        license: an identifier of the Hub ("apache-2.0").
        folder: of the model.
        config: the content of its `config.json`.
        prompts: of the sample grid `samples.png`; empty without one.
        results: evaluations, by their path in the repository.
        recipes: paths in the repository.
        about: what the folder's own README says, below its title.
    """

    repository: str
    license: str
    folder: Path
    config: Mapping[str, Any]
    prompts: Sequence[str] = ()
    results: Mapping[str, Results] = field(default_factory=dict)
    recipes: Sequence[str] = ()
    about: str = ""


def card(facts: Facts) -> str:
    """The text of `README.md`, with its metadata; the same facts give the same text.

    Raises:
        ValueError: a file of weights is broken.
    """
    from huggingface_hub import ModelCardData

    numbers = [one for results in facts.results.values() for one in model_index.eval_results(results)]
    data = ModelCardData(
        license=facts.license,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=list(TAGS),
        model_name=facts.repository if numbers else None,
        eval_results=numbers or None,
    )
    name = str(facts.config["name"])
    parts = [f"# {name}", _lead(facts), _grid(facts), "## Use", _use(facts), "## Stages and experts", _stages(facts)]
    if facts.about:
        parts += ["## About", facts.about]
    if facts.results:
        parts += ["## Results", *(_numbers(path, results) for path, results in facts.results.items())]
    if facts.recipes:
        parts += ["## Recipes", "\n".join(f"- [{path}]({path})" for path in facts.recipes)]
    parts += ["## Limitations", LIMITATIONS, f"Licence: {facts.license}. Written by `ediffi publish`."]
    text = "\n\n".join(part.strip() for part in parts if part)
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{text}\n"


def _lead(facts: Facts) -> str:
    stages = facts.config["stages"]
    way = " → ".join(f"{entry['resolution']}²" for entry in stages)
    experts = sum(len(entry["experts"]) for entry in stages)
    what = "A text-to-image cascade" if facts.config["encoders"] else "A stage of a text-to-image cascade"
    return (
        f"{what} of eDiff-I's kind (arXiv 2211.01324), {way}, with {experts} expert denoiser"
        f"{'s' if experts > 1 else ''} in {len(stages)} stage{'s' if len(stages) > 1 else ''}."
    )


def _grid(facts: Facts) -> str:
    if not facts.prompts:
        return "No samples: without encoders, or without a base stage, it paints nothing from a prompt."
    listed_prompts = "; ".join(f"“{prompt}”" for prompt in facts.prompts)
    return f"![samples](samples.png)\n\nPainted by this model with its own settings, seed 0: {listed_prompts}."


def _use(facts: Facts) -> str:
    repository = facts.repository
    if not facts.prompts:
        stage = facts.config["stages"][0]["name"]
        return (
            "```bash\npip install ediffi\n"
            f"ediffi experts {repository}\n```\n\n"
            f"A schedule of `ediffi grow` grows from it with `trunk: {{model: {repository}, stage: {stage}}}`."
        )
    prompt = facts.prompts[0]
    return (
        "```bash\npip install ediffi\n"
        f'ediffi sample "{prompt}" --model {repository} --output picture.png\n```\n\n'
        "```python\n"
        "from ediffi import Cascade\n"
        f'Cascade.from_pretrained("{repository}")("{prompt}").images[0].save("picture.png")\n'
        "```"
    )


def _stages(facts: Facts) -> str:
    rows = ["| stage | pixels | network | expert of noise (sigma) | parameters | steps |", "|---|---|---|---|---|---|"]
    for entry in facts.config["stages"]:
        noise = LogNormal(**entry["noise"])
        for row in listed_experts(entry):
            spans = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in noise.bounds(row.expert.region))
            count = parameters(facts.folder / row.file) / 1e6
            steps = row.expert.steps or "not recorded"
            rows.append(
                f"| {entry['name']} | {entry['resolution']}² | {entry['denoiser']['name']} | {spans} "
                f"| {count:.3g} M | {steps} |"
            )
    encoders = ", ".join(f"{source} ({part['name']})" for source, part in facts.config["encoders"].items())
    return "\n".join(rows) + f"\n\nEncoders: {encoders or 'none here'}. Weights: safetensors, hashes in config.json."


def _numbers(path: str, results: Results) -> str:
    names = list(dict.fromkeys(name for point in results.points for name in point.metrics))
    head = f"| {results.suite.get('name', 'suite')} | {' | '.join(measured_name(results, n) for n in names)} |"
    rows = [
        f"| {point.title} | {' | '.join(shown(name, point.metric(name)) for name in names)} |"
        for point in results.points
    ]
    count = results.points[0].count if results.points else 0
    return "\n".join([head, "|---" * (len(names) + 1) + "|", *rows]) + (
        f"\n\n{count:,} pictures; the protocol is in [{path}/results.json]({path}/results.json)."
    )
