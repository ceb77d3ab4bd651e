"""What a reproduction may cost: samples, prompts and seeds. A YAML file in recipes/reproduction, or your own."""

from dataclasses import dataclass, field
from pathlib import Path

from ediffi.cli.recipes import names, path_of
from ediffi.io.recipes import one_sentence, recipe_parser
from ediffi.registry.core import UnknownNameError

FOLDER = "reproduction/"


@dataclass(frozen=True)
class TrainingBudget:
    """How the models that are compared are trained.

    Args:
        base: recipe of the base stage, a name as `ediffi recipes ls` tells it, or a file.
        super_resolution: recipe of the second stage, whose model for all noise is trained first.
        samples: training scenes to render.
        batch_size: samples a step.
        arm_steps: steps of each base ensemble, over all of its experts together.
        trunk_steps: steps of the second stage's model for all noise.
        branch_steps: steps of each second-stage ensemble, over all of its experts together.
        encoder_steps: steps of each base stage that tells what an encoder brings (figure 8).
        learning_rate: of the ensembles; the trunks have that of their recipes.
        precision: of Lightning; bf16-mixed is faster with AVX-512 or on a GPU.
    """

    base: str = "toybox/base"
    super_resolution: str = "toybox/sr64"
    samples: int = 60_000
    batch_size: int = 64
    arm_steps: int = 400
    trunk_steps: int = 1200
    branch_steps: int = 400
    encoder_steps: int = 800
    learning_rate: float = 5e-4
    precision: str = "32-true"


@dataclass(frozen=True)
class Budget:
    """What a reproduction may cost.

    Args:
        model: that the base ensembles grow from, and that all other figures are of: the shipped one, or a folder.
        prompts: captions that each ensemble is judged on, at least 2.
        shown: captions that the model itself is judged on.
        cases: layouts of paint, and style images; a tenth of it are the pairs of prompts of figure 4.
        scenes: held-out scenes that losses are measured on.
        guidance_scales: of the curves.
        nfe: network calls of the samplers' table.
        starts: images of the samplers' table.
        factors: of capacity in figure 13, powers of 2.
        seeds: trainings of each ensemble.
        inception: a file with the weights of FID's Inception, whose distance Table 1 then tells too.
        training: how what is compared is trained.

    Raises:
        ValueError: a count is too small, or the weights are missing.
    """

    model: str = "toybox"
    prompts: int = 200
    shown: int = 500
    cases: int = 100
    scenes: int = 1000
    guidance_scales: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    nfe: tuple[int, ...] = (5, 7, 10, 16, 25, 50)
    starts: int = 16
    factors: tuple[int, ...] = (1, 2, 4, 8)
    seeds: int = 3
    inception: str | None = None
    training: TrainingBudget = field(default_factory=TrainingBudget)

    def __post_init__(self) -> None:
        for name, least in (("prompts", 2), ("shown", 2), ("cases", 1), ("scenes", 1), ("starts", 1), ("seeds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of a budget must be at least {least}, got {getattr(self, name)}")
        if self.inception is not None and not Path(self.inception).is_file():
            raise ValueError(f"inception of a budget is {self.inception}, and there is no such file")


def read_budget(name: str) -> Budget:
    """The budget that ships under a name ("quick", "full"), or the one in a YAML file.

    Raises:
        UnknownNameError: neither; the message lists those that ship.
        ValueError: the file is no budget.
    """
    from jsonargparse import ArgumentError

    shipped = [found.removeprefix(FOLDER) for found in names(f"{FOLDER}*")]
    path = path_of(FOLDER + name) if name in shipped else Path(name)
    if not path.is_file():
        raise UnknownNameError.among(shipped, "budget", name)
    parser = recipe_parser()
    parser.add_class_arguments(Budget)
    try:
        return Budget(**parser.instantiate(parser.parse_path(str(path))).as_dict())
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no budget of a reproduction: {one_sentence(error)}") from None
