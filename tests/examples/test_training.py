"""Training from Python, as docs/train.md has it: a run without a recipe is composed, sampled, saved and published."""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ediffi import Cascade
from ediffi.cli import main
from ediffi.registry import denoisers
from ediffi.training import checkpoint as checkpoints
from ediffi.training.growth.compose import StageRecipe, compose
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.start import InitialWeights
from tests.docs.test_texts import ROOT, blocks
from tests.world import TINY_BASE

QUIET = (
    "does not have many workers",
    "tensorboardX",
    "IterableDataset",
    "litlogger",
    "LeafSpec",
    "Checkpoint directory",
)
pytestmark = [pytest.mark.filterwarnings(f"ignore:.*{line}.*") for line in QUIET]
PAGE, FILE = ROOT / "docs" / "train.md", ROOT / "examples" / "training" / "train.py"


@pytest.fixture(scope="module")
def data(shard_folder: Path, new_folder: Callable[[str], Path]) -> Path:
    place = new_folder("data")
    for part in ("train", "val"):
        shutil.copytree(shard_folder, place / part)
    return place


def test_the_page_shows_the_example() -> None:
    def lines(code: str) -> set[str]:
        return {ast.unparse(node) for node in ast.parse(code).body}

    assert set.union(*map(lines, blocks(PAGE))) == lines(FILE.read_text()) - {
        ast.unparse(ast.parse(FILE.read_text()).body[0])
    }
    assert len(blocks(PAGE)[0].partition("def train")[2].splitlines()) <= 15


def test_a_run_of_python_is_composed_sampled_saved_and_published(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {}
    exec(compile(FILE.read_text(), "train.py", "exec"), names)
    cascade = names["sweep"](data, tmp_path / "runs", [1e-3, 1e-1], max_steps=2, **TINY_BASE)  # type: ignore[operator]
    assert isinstance(cascade, Cascade)
    assert cascade("a red circle", num_inference_steps=1).images[0].size == (16, 16)
    assert not list((tmp_path / "runs").rglob("config.yaml"))
    saved = cascade.save_pretrained(tmp_path / "saved")
    run = tmp_path / "runs" / "lr-0.001"
    weights = checkpoints.read(run / "checkpoints" / "last.ckpt").weights
    of_file = compose(tmp_path / "again", "m", [StageRecipe("base", 16, run / "checkpoints" / "last.ckpt")], {})
    for name, value in Cascade.from_pretrained(of_file).stages[0].denoiser.denoisers[0].state_dict().items():
        assert torch.equal(value, weights[name].bfloat16().to(value.dtype)), name
    assert main(["publish", str(saved), "lab/mine", "--license", "apache-2.0", "--dry-run"]) == 0
    assert main(["publish", str(run), "lab/mine", "--license", "apache-2.0", "--dry-run"]) == 0
    assert capsys.readouterr().out.split()[-1] == f"{run}-published"


def test_weights_of_a_network_with_other_arguments_are_refused(data: Path, tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(FILE.read_text(), "train.py", "exec"), names)
    names["train"](data, tmp_path, max_steps=1, **TINY_BASE)  # type: ignore[operator]
    start = InitialWeights(checkpoint=tmp_path / "checkpoints" / "last.ckpt")
    start(DiffusionStage(denoisers.create("unet_toybox", sigma_data=0.6, dropout=0.1, **TINY_BASE)))
    other = DiffusionStage(denoisers.create("unet_toybox", sigma_data=0.6, normalize_pooled=True, **TINY_BASE))
    with pytest.raises(ValueError, match="its normalize_pooled is False, the recipe's True"):
        start(other)
