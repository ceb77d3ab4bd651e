"""What a run trains on is what its recipe says: seed, samples, rate, sources; after a stop and a restart too."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.data.stream import Batch
from ediffi.training.lightning_module import DiffusionStage
from tests.training.test_survival import write

pytestmark = [pytest.mark.filterwarnings(f"ignore:{line}") for line in (*QUIET, ".*Checkpoint directory.*")]
Recipe = Callable[..., Path]
Step = dict[str, Any]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Step]]:
    """What every training step of this test has seen."""
    seen: list[Step] = []
    train = DiffusionStage.training_step

    def record(self: DiffusionStage, batch: Batch, batch_idx: int) -> torch.Tensor:
        (group,) = self.trainer.optimizers[0].param_groups
        drawn = self._randomness(batch, "training")
        seen.append({"index": batch.index, "keys": batch.keys, "noise": (drawn.seed, *drawn.indices), **group})
        return train(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionStage, "training_step", record)
    return seen


def fit(recipe: Path, *words: str) -> int:
    return main(["fit", "--config", str(recipe), *words])


def test_the_seed_of_the_run_is_that_of_order_and_noise(recipe: Recipe, tmp_path: Path, steps: list[Step]) -> None:
    def run(name: str, *words: str) -> list[Step]:
        steps.clear()
        assert fit(write(recipe, tmp_path / name, 2), *words) == 0
        return list(steps)

    zero, one = run("zero"), run("one", "--seed_everything", "1")
    assert [step["noise"][0] for step in (*zero, *one)] == [0, 0, 1, 1]
    assert [step["keys"] for step in zero] != [step["keys"] for step in one]
    named = run("named", "--seed_everything", "1", "--model.seed", "7", "--data.seed", "0")
    assert [step["keys"] for step in named] == [step["keys"] for step in zero], "the recipe's own"
    assert {step["noise"][0] for step in named} == {7}
    assert fit(tmp_path / "one" / "base.yaml", "--data.seed", "1", "--seed_everything", "1") == 0, "it is the same seed"
