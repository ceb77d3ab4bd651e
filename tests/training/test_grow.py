"""Growing experts: a schedule is checked before it runs, skips what is done, and survives being killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.data.order import Order
from ediffi.data.stream import Batch
from ediffi.diffusion.noise import ROOT, Complement, Interval, NoiseInterval
from ediffi.pipeline.checkpoint import build_denoiser, load_cascade
from ediffi.pipeline.stage import Sampling
from ediffi.registry import denoisers
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, Embedding
from ediffi.training import checkpoint as checkpoints
from ediffi.training.finished_run import read_run
from ediffi.training.growth.compose import StageRecipe, trained_stage
from ediffi.training.growth.grow import check_seeds, grow, node_settings, read_node_recipe
from ediffi.training.growth.schedule import GrowthNode, GrowthSchedule, TrunkStage
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.start import InitialWeights
from tests.training import forked

LOW, HIGH = Interval(2, 0), Interval(2, 3)
MIDDLE = Complement((LOW, HIGH))
STAGE = StageRecipe("base", 16)
OVERRIDES = {
    "model.denoiser.init_args.channels": 16,
    "model.denoiser.init_args.head_channels": 8,
    "model.lr_scheduler.init_args.max_lr": 1e-2,
    "trainer.callbacks.0.init_args.decay": 0.5,
}
pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]
Recipe = Callable[..., Path]
SLOW, BY = pytest.mark.slow, ("srun", "torchrun")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoints.read(run / "checkpoints" / "last.ckpt").weights)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())


NODES = [GrowthNode(ROOT, 4), GrowthNode(Interval(1, 0), 2, ROOT), GrowthNode(Interval(1, 1), 4, ROOT)]


@pytest.fixture(scope="module")
def grown(recipe: Recipe, new_folder: Callable[[str], Path]) -> Path:
    """A root and its two children, trained without a break."""
    output = new_folder("grown")
    drawn: dict[str, dict[str, list[tuple[int, int]]]] = {}
    train = DiffusionStage.training_step

    def record(self: DiffusionStage, batch: Batch, batch_idx: int) -> torch.Tensor:
        positions = self._randomness(batch, "training").indices
        here = drawn.setdefault(self.trainer.default_root_dir, {"noise": [], "order": []})
        for what, part in (("noise", self), ("order", self.trainer.datamodule)):
            here[what] += [(part.seed, position) for position in positions]
        return train(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionStage, "training_step", record)
        grow(output, recipe("base", output), NODES, STAGE, overrides=OVERRIDES, run_node=main)
    (output / "drawn.json").write_text(json.dumps(drawn))
    return output


def test_leaves_become_a_stage_that_knows_its_tree(grown: Path) -> None:
    tree = load_cascade(grown / "stage").stages[0].denoiser
    assert [(e.interval, e.parent, e.steps) for e in tree.experts] == [
        (Interval(1, 0), ROOT, 2),
        (Interval(1, 1), ROOT, 4),
    ]
    for network, name in zip(tree.denoisers, ("1-0", "1-1"), strict=True):
        trained = weights(grown / name)
        assert all(torch.equal(value, trained[key].bfloat16().float()) for key, value in network.state_dict().items())
    assert not same(weights(grown / "1-0"), weights(grown / "0-0"))


def test_an_expert_starts_from_its_parents_averaged_weights(grown: Path, recipe: Recipe, tmp_path: Path) -> None:
    """With a learning rate of zero the child is the parent."""
    still = OVERRIDES | {"model.lr_scheduler.init_args.max_lr": 1e-30, "model.optimizer.init_args.weight_decay": 0.0}
    nodes = [GrowthNode(ROOT, 4, run=grown / "0-0"), *(GrowthNode(child, 2, ROOT) for child in ROOT.children)]
    grow(tmp_path, recipe("base", tmp_path), nodes, STAGE, overrides=still, run_node=main)
    parent, raw = weights(grown / "0-0"), torch.load(grown / "0-0/checkpoints/last.ckpt", weights_only=True)
    assert same(weights(tmp_path / "1-0"), parent)
    current = {k.removeprefix("denoiser."): v for k, v in raw["current_model_state"].items()}
    assert not same(current, parent), "the raw weights are others"


def test_what_is_done_is_skipped(grown: Path, recipe: Recipe, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "ediffi")
    before = {path: path.stat().st_mtime_ns for path in grown.rglob("last.ckpt")}
    ran = []
    grow(grown, recipe("base", tmp_path), NODES, STAGE, overrides=OVERRIDES, run_node=ran.append)
    assert ran == []
    assert {path: path.stat().st_mtime_ns for path in grown.rglob("last.ckpt")} == before
    assert caplog.text.count(", done") == 3
    assert "is done, with" not in caplog.text
    other = OVERRIDES | {"trainer.callbacks.0.init_args.decay": 0.7, "seed_everything": 5}
    grow(grown, recipe("base", tmp_path), NODES, STAGE, overrides=other, dry_run=True)
    assert f"{grown / '0-0'} is done, with seed_everything 0, not 5 and " in caplog.text


def test_training_noise_is_the_nodes_own(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own config says the interval once; the loss sees no other noise."""
    from ediffi.diffusion.noise import LogNormal

    config = yaml.safe_load((grown / "1-1" / "config.yaml").read_text())
    assert config["model"]["interval"] == {"level": 1, "index": 1}
    seen = []
    sample = LogNormal.sample
    monkeypatch.setattr(LogNormal, "sample", lambda *args: seen.append(sample(*args)) or seen[-1])
    words = ["validate", "--config", str(grown / "1-1" / "node.yaml"), "--ckpt_path"]
    assert main([*words, str(grown / "1-1" / "checkpoints" / "last.ckpt")]) == 0
    ((edge, _),) = LogNormal(-0.2, 1.2).bounds(Interval(1, 1))
    assert torch.cat(seen).min() >= edge


def test_the_interval_comes_from_the_checkpoint(grown: Path, recipe: Recipe, tmp_path: Path, capsys) -> None:
    """The plain recipe says nothing of experts; the checkpoint does."""
    config = yaml.safe_load(recipe("base", tmp_path).read_text())
    config["model"]["denoiser"]["init_args"] |= {"channels": 16, "head_channels": 8}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config))
    checkpoint = str(grown / "1-1" / "checkpoints" / "last.ckpt")
    words = ["validate", "--config", str(tmp_path / "plain.yaml"), "--ckpt_path", checkpoint]
    assert main(words) == 0
    assert "val/loss_band0" not in capsys.readouterr().out
    assert main([*words, "--model.interval", "{level: 1, index: 0}"]) == 1
    assert "the checkpoint is of noise (1, 1), this run of (1, 0)" in capsys.readouterr().err


def growth_recipe(output: Path, place: Path, base: Path) -> Path:
    content = {
        "recipe": str(base),
        "output": str(output),
        "nodes": [
            {"interval": {"level": 0, "index": 0}, "steps": 4},
            {"interval": {"level": 1, "index": 0}, "steps": 2, "parent": {"level": 0, "index": 0}},
            {"interval": {"level": 1, "index": 1}, "steps": 4, "parent": {"level": 0, "index": 0}},
        ],
        "overrides": OVERRIDES,
        "stage": {"name": "base", "resolution": 16},
    }
    place.write_text(yaml.safe_dump(content))
    return place


def test_killed_at_any_node_a_rerun_ends_in_the_same_weights(grown: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Kill -9 of the whole group, as soon as a checkpoint of the root stands, and again in a child."""
    output = tmp_path / "killed"
    config = growth_recipe(output, tmp_path / "grow.yaml", recipe("base", tmp_path))
    for name in ("0-0", "1-1"):
        running = forked.start(["grow", "--config", str(config)])
        while not (output / name / "checkpoints" / "last.ckpt").exists():
            forked.assert_running(running)
            time.sleep(0.01)
        forked.kill(running)
        assert not (output / "stage").exists()
    forked.wait(forked.start(["grow", "--config", str(config)]))
    for name in ("0-0", "1-0", "1-1"):
        assert same(weights(output / name), weights(grown / name)), name
    hashes = [
        [row["sha256"] for row in json.loads((place / "stage" / "config.json").read_text())["stages"][0]["experts"]]
        for place in (grown, output)
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_a_node_can_be_one_group_of_processes(recipe: Recipe, tmp_path: Path) -> None:
    """Distributed data parallel on two processes, started by Lightning from the node's own process."""
    base = recipe("base", tmp_path)
    config = yaml.safe_load(base.read_text())
    config["trainer"] |= {"devices": 2, "strategy": "ddp"}
    base.write_text(yaml.safe_dump(config))
    output = tmp_path / "ddp"
    words = ["grow", "--config", str(growth_recipe(output, tmp_path / "grow.yaml", base))]
    done = subprocess.run([sys.executable, "-m", "ediffi", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("Starting with 2 processes") == 3
    assert regions(output / "stage") == list(ROOT.children)


def many(recipe: Recipe, folder: Path, steps: int = 2) -> tuple[Path, Path]:
    """A schedule of two experts and its output, each node a group of four processes."""
    base = recipe("base", folder)
    config = yaml.safe_load(base.read_text())
    config["trainer"] |= {"devices": 4, "strategy": "ddp", "limit_val_batches": 0}
    config["data"]["batch_size"] = 1
    base.write_text(yaml.safe_dump(config))
    nodes = [{"interval": {"level": 1, "index": index}, "steps": steps} for index in (0, 1)]
    content = {"recipe": str(base), "output": str(folder / "out"), "nodes": nodes, "overrides": OVERRIDES}
    place = folder / "grow.yaml"
    place.write_text(yaml.safe_dump(content | {"stage": {"name": "base", "resolution": 16}}))
    return place, folder / "out"


@pytest.mark.filterwarnings("ignore")  # of Lightning and torch, that come with several processes
@pytest.mark.parametrize(("by", "times"), [("srun", 1), *(pytest.param(by, 20, marks=SLOW) for by in BY)])
def test_four_processes_train_a_schedule(by: str, times: int, recipe: Recipe, tmp_path: Path) -> None:
    """Two nodes one after the other, in the environment of srun or torchrun."""
    for attempt in range(times):
        (folder := tmp_path / str(attempt)).mkdir()
        place, output = many(recipe, folder)
        forked.wait(forked.start(["grow", "--config", str(place)], 4, by))
        assert regions(output / "stage") == list(ROOT.children)
        print(f"{attempt + 1} of {times} by {by}")


@pytest.mark.filterwarnings("ignore")  # of Lightning and torch, that come with several processes
@pytest.mark.parametrize("kill", [True, pytest.param(False, marks=SLOW)], ids=["kill-on-bad-exit", "left alone"])
def test_a_node_that_dies_under_srun_ends_all_tasks_and_is_resumed(kill: bool, recipe: Recipe, tmp_path: Path) -> None:
    """Of two tasks, the node of the second is killed: the first must not wait for it, nor anything go on running."""
    place, output = many(recipe, tmp_path, steps=4)
    base = tmp_path / "base.yaml"
    config = yaml.safe_load(base.read_text())
    config["trainer"]["devices"] = 2
    die = {"class_path": "tests.training.faults.Die", "init_args": {"step": 3, "rank": 1, "once": f"{tmp_path}/died"}}
    config["trainer"]["callbacks"].append(die)
    base.write_text(yaml.safe_dump(config))
    step = forked.start(["grow", "--config", str(place)], 2, "srun", kill_on_bad_exit=kill)
    assert forked.end(step) == (-signal.SIGKILL if kill else 1)
    assert forked.left(step) == []
    assert (tmp_path / "died").exists()
    assert not (output / "stage").exists()
    first = checkpoints.steps(output / "1-0" / "checkpoints" / "last.ckpt")
    assert first == 2, "the last that was whole"
    forked.wait(forked.start(["grow", "--config", str(place)], 2, "srun", kill_on_bad_exit=kill))
    assert regions(output / "stage") == list(ROOT.children)


BESIDE = """
import lightning as L

class Shout(L.Callback):
    def on_train_end(self, trainer, pl_module):
        print(f"from beside the {self.what}, in process {trainer.global_rank}")
"""


@pytest.mark.filterwarnings("ignore")  # of Lightning and torch, that come with several processes
@pytest.mark.parametrize(
    ("by", "words"),
    [("one", ["--node", "1,0"]), *(pytest.param(by, [], marks=SLOW) for by in ("one", "ddp", *BY))],
)
def test_nodes_import_what_stands_beside_schedule_and_recipe(
    by: str, words: list[str], recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In processes of their own, which look in their run directory."""
    place, output = many(recipe, tmp_path, steps=1 if words else 2)
    base = tmp_path / "base.yaml"
    config, schedule = yaml.safe_load(base.read_text()), yaml.safe_load(place.read_text())
    config["trainer"] |= {"devices": 1, "strategy": "auto"} if by == "one" else {"devices": 2}
    config["data"]["batch_size"] = 1
    for name in ("recipe", "schedule"):
        (folder := tmp_path / name).mkdir()
        (folder / f"beside_{name}.py").write_text(BESIDE.replace("{self.what}", name))
        config["trainer"]["callbacks"].append({"class_path": f"beside_{name}.Shout"})
    config["trainer"]["callbacks"][1]["init_args"]["every_n_train_steps"] = 1
    (tmp_path / "recipe" / "base.yaml").write_text(yaml.safe_dump(config))
    schedule["recipe"] = str(tmp_path / "recipe" / "base.yaml")
    (tmp_path / "schedule" / "grow.yaml").write_text(yaml.safe_dump(schedule))
    monkeypatch.setenv("EDIFFI_IMPORTS", "beside_recipe,beside_schedule")
    monkeypatch.setenv("EDIFFI_BESIDE", "")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    argv = ["grow", "--config", str(tmp_path / "schedule" / "grow.yaml"), *words]
    forked.wait(forked.start(argv, 2, by, fork=False) if by in BY else forked.start(argv, fork=False))
    said = capfd.readouterr().out
    for name in ("recipe", "schedule"):
        for rank in range(1 if by == "one" else 2):
            assert said.count(f"from beside the {name}, in process {rank}") == (1 if words else 2)
    assert (output / "stage").exists() != bool(words)


def test_of_several_machines_the_first_composes(
    grown: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (grown / "stage" / "config.json").stat().st_mtime_ns
    monkeypatch.setenv("NODE_RANK", "1")
    assert grow(grown, recipe("base", tmp_path), NODES, STAGE, overrides=OVERRIDES, run_node=main) is None
    assert (grown / "stage" / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("attempts", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_many_processes_end_whole_at_once(grown: Path, recipe: Recipe, tmp_path: Path, attempts: int) -> None:
    """4 tasks of a finished schedule, told apart by srun, torchrun or nothing; half of the times without a stage."""
    output = Path(shutil.copytree(grown, tmp_path / "grown"))
    base = recipe("base", tmp_path)
    for attempt in range(attempts):
        if attempt % 2:
            shutil.rmtree(output / "stage")
        written = (output / "stage" / "config.json").stat().st_mtime_ns if attempt % 2 == 0 else None
        tasks = []
        for rank in range(4):
            if not (pid := os.fork()):
                code = 1
                try:
                    if variable := ("SLURM_PROCID", "RANK", None)[attempt % 3]:
                        os.environ[variable] = str(rank)
                    made = grow(output, base, NODES, STAGE, overrides=OVERRIDES, run_node=lambda words: 1)
                    code = 0 if (made is None) == (variable is not None and rank > 0) else 2
                finally:
                    os._exit(code)
            tasks.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in tasks] == [0] * 4, attempt
        assert regions(output / "stage") == list(ROOT.children)
        assert written in (None, (output / "stage" / "config.json").stat().st_mtime_ns), "finished, and written again"


def test_a_stage_is_written_again_where_its_recipe_or_a_leaf_has_changed(
    grown: Path, recipe: Recipe, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(grown, tmp_path / "grown"))
    config, base = output / "stage" / "config.json", recipe("base", tmp_path)
    for change in ("sampling", "leaf"):
        stage = StageRecipe("base", 16, sampling=Sampling(num_inference_steps=3))
        before = config.stat().st_mtime_ns
        if change == "leaf":
            (output / "1-0" / "checkpoints" / "last.ckpt").touch()
        grow(output, base, NODES, stage, overrides=OVERRIDES, run_node=lambda words: 1)
        assert config.stat().st_mtime_ns > before, change
        assert json.loads(config.read_text())["stages"][0]["sampling"]["num_inference_steps"] == 3


@pytest.mark.parametrize("own", [{"checkpoint": "before.ckpt", "extend": True}, {"model": "toybox", "stage": "base"}])
def test_a_node_s_parent_or_trunk_stands_for_what_the_recipe_starts_from(
    own: dict[str, Any], node_recipe: dict[str, Any], tmp_path: Path
) -> None:
    """Of a recipe that goes on from another run, as a later phase does; the first node goes on from there."""
    recipe = {**node_recipe, "start": {**own, "lora": {"rank": 2}}}
    first, second, third = GrowthNode(ROOT, 4), *(GrowthNode(child, 4, parent=ROOT) for child in ROOT.children)
    parent = schedule([first, second, third], tmp_path)
    trunk = schedule([first], tmp_path, TrunkStage("toybox", "base"))
    assert node_settings(recipe, parent, first, None)["start"] == recipe["start"]
    of_parent = {"lora": {"rank": 2}, "checkpoint": str(tmp_path / "0-0/checkpoints/last.ckpt")}
    assert node_settings(recipe, parent, second, None)["start"] == of_parent
    of_trunk = {"lora": {"rank": 2}, "model": "toybox", "stage": "base"}
    assert node_settings(recipe, trunk, first, None)["start"] == of_trunk


def test_a_scheduler_gets_the_graph_and_runs_nodes(grown: Path, recipe: Recipe, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    config = growth_recipe(output, tmp_path / "grow.yaml", recipe("base", tmp_path))
    assert main(["grow", "--config", str(config), "--dry-run", "json"]) == 0
    nodes = json.loads(capsys.readouterr().out)
    assert main(["grow", "--config", str(config), "--plan", "json"]) == 0
    earlier = capsys.readouterr()
    assert (json.loads(earlier.out), earlier.err) == (nodes, "--plan is called --dry-run now\n")
    assert [(one["node"], one["after"]) for one in nodes] == [
        ("0-0", []), ("1-0", ["0-0"]), ("1-1", ["0-0"]), (None, ["1-0", "1-1"]),
    ]  # fmt: skip
    assert nodes[1]["command"] == ["ediffi", "grow", "--config", str(config), "--node", "1-0"]
    assert nodes[3]["command"] == ["ediffi", "grow", "--config", str(config)]
    assert main([*nodes[1]["command"][1:]]) == 1
    assert "node (1, 0) starts from (0, 0), which is at step 0 of 4; run that first" in capsys.readouterr().err
    assert main(["grow", "--config", str(config), "--node", "3,0"]) == 1
    assert "the schedule has no node '3,0'; it has 0-0, 1-0, 1-1" in capsys.readouterr().err
    ran: list[str] = []
    shutil.copytree(grown / "0-0", output / "0-0")
    with pytest.raises(ChildProcessError, match=r"\(1, 1\), node 3 of 3 ended with code 1"):
        grow(output, tmp_path / "base.yaml", NODES, STAGE, overrides=OVERRIDES, node="1,1",
             run_node=lambda words: ran.append(words[2]) or 1)  # fmt: skip
    assert ran == [str(output / "1-1" / "node.yaml")], "this node alone"
    assert not (output / "stage").exists()


def test_a_node_that_fails_is_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=r"\(0, 0\), node 1 of 3 ended with code 7"):
        grow(tmp_path, recipe("base", tmp_path), NODES, STAGE, overrides=OVERRIDES, run_node=lambda argv: 7)


TREES = {
    "two children": [GrowthNode(ROOT, 4), *(GrowthNode(child, 2, ROOT) for child in ROOT.children)],
    "no trunk": [GrowthNode(child, 4) for child in ROOT.children],
    "the paper's, small": [
        GrowthNode(ROOT, 8),
        GrowthNode(Interval(1, 1), 4, ROOT),
        GrowthNode(HIGH, 2, Interval(1, 1)),
        GrowthNode(Interval(1, 0), 4, ROOT),
        GrowthNode(LOW, 2, Interval(1, 0)),
        GrowthNode(MIDDLE, 6, ROOT),
    ],
}


def seen(settings: dict[str, Any], steps: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """What a node sees at each position: the random numbers of its noise and dropout; and which sample of 64."""
    positions = range(steps * 4)
    drawn = Philox(settings["model"]["seed"], positions, "training")
    numbers = [tuple(row) for name in ("noise", "dropout") for row in drawn.of(name).integers(4).tolist()]
    order = Order([16] * 4, settings["data"]["seed"], 1, 1)
    places = [order.locate(position) for position in positions]
    return numbers, [(shard, int(order.shuffled(epoch, shard)[place])) for epoch, shard, place in places]


@pytest.mark.parametrize("tree", TREES)
@given(base=st.integers(0, 2**32 - 1), seeds=st.sampled_from([{}, {"model.seed": 3}, {"data.seed": 3}]))
def test_no_position_of_order_noise_and_dropout_repeats(
    tree: str, base: int, seeds: dict[str, int], node_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither along a path of a schedule, nor between siblings or cousins."""
    schedule = GrowthSchedule(tmp_path_factory.getbasetemp(), TREES[tree], None)
    changes = {"seed_everything": base, **seeds}
    runs = [node_settings(node_recipe, schedule, node, changes) for node in schedule.nodes]
    check_seeds(schedule.nodes, runs)
    numbers, orders = zip(*(seen(run, node.steps) for run, node in zip(runs, schedule.nodes, strict=True)), strict=True)
    every = [row for node in numbers for row in node]
    assert len(set(every)) == len(every)
    assert len({tuple(order[:8]) for order in orders}) == len(orders), "each shows its samples in an order of its own"


@pytest.fixture(scope="module")
def node_recipe(recipe: Recipe, new_folder: Callable[[str], Path]) -> dict[str, Any]:
    return read_node_recipe(recipe("base", new_folder("recipe")))


def test_nodes_train_on_what_no_other_has_seen(grown: Path) -> None:
    """What the runs have drawn: (seed, position) of their noise and of their samples."""
    drawn = json.loads((grown / "drawn.json").read_text())
    for what in ("noise", "order"):
        every = [tuple(place) for node in drawn.values() for place in node[what]]
        assert len(every) == (4 + 2 + 4) * 4
        assert len(set(every)) == len(every), what


def test_a_seed_of_two_nodes_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    same_seed = {"data.seed": 5}
    nodes = [GrowthNode(ROOT, 4), *(GrowthNode(child, 2, ROOT, same_seed) for child in ROOT.children)]
    with pytest.raises(ValueError, match=r"nodes \(1, 0\) and \(1, 1\) have the same data.seed, 5"):
        grow(tmp_path, recipe("base", tmp_path), nodes, STAGE, overrides=OVERRIDES, dry_run=True)


def test_a_trunk_s_expert_gives_its_nodes_another_seed(grown: Path, tmp_path: Path) -> None:
    """Fine-tuned again, an expert sees other samples than it was trained on."""
    trunk = TrunkStage(str(grown / "stage"), "base")
    first = GrowthSchedule(tmp_path, NODES, None)
    (node,) = nodes = [GrowthNode(Interval(1, 1), 4)]
    assert GrowthSchedule(tmp_path, nodes, trunk).seed(node, 0) not in {first.seed(one, 0) for one in NODES}
    with pytest.raises(ValueError, match=r"no expert of stage 'base' of .* owns all of \(0, 0\)"):
        GrowthSchedule(tmp_path, [GrowthNode(ROOT, 4)], trunk)


def test_the_plan_tells_seeds_and_refuses_what_a_later_node_would(recipe: Recipe, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "ediffi")
    base = recipe("base", tmp_path)
    grow(tmp_path, base, NODES, STAGE, overrides=OVERRIDES, dry_run=True)
    seeds = re.findall(r"steps from .*, seed (\d+), to do", caplog.text)
    assert len(set(seeds)) == 3
    assert seeds[0] == "0", "a root with random weights keeps the recipe's"
    ran: list[Any] = []
    odd = [GrowthNode(ROOT, 4), GrowthNode(Interval(1, 0), 3, ROOT), GrowthNode(Interval(1, 1), 4, ROOT)]
    for plan in (True, False):
        with pytest.raises(ValueError, match=r"steps of node \(1, 0\) must be a multiple .* got 3"):
            grow(tmp_path, base, odd, STAGE, overrides=OVERRIDES, dry_run=plan, run_node=ran.append)
    assert ran == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.optimizer.init_args.lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"model.optimizer.init_args.lrr": 1.0}, "Option 'lrr' is not accepted"),
        ({"model.lr_scheduler.init_args.pct_start": 7.0}, "between 0 and 1 pct_start, but got 7.0"),
        ({"data.batch_size": 0}, "batch_size must be positive, got 0"),
        ({"data.num_workers": None}, "data.num_workers must have a value, got null"),
        ({"trainer.limit_train_batches": 0}, "trainer.limit_train_batches must be at least 1"),
        ({"trainer.val_check_interval": -3}, "invalid value -3 for val_check_interval"),
        ({"trainer.callbacks.0.init_args.decay": 2.0}, "decay of the average must be in [0, 1), got 2.0"),
        (
            {"trainer.callbacks.1.init_args.every_n_train_steps": 0},
            "every_n_train_steps of the recipe's ModelCheckpoint",
        ),
        ({"seed_everything": -4}, "it must be a whole number from 0 to 4294967295, got -4"),
        ({"trainer.callbacks.0.class_path": "os.system"}, "cannot be trained: a recipe may not import 'os.system'"),
        ({"trainer.devices": 64, "trainer.accelerator": "gpu", "trainer.strategy": "ddp"}, None),
    ],
)
def test_a_node_that_fit_would_refuse_is_refused_before_the_first(
    change: dict[str, Any],
    told: str | None,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """Also by a dry run, on a machine without the devices of the run, and under srun."""
    for name, value in {"JOB_ID": "5", "NTASKS": "4", "NTASKS_PER_NODE": "4", "JOB_NAME": "x", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    path = recipe("base", tmp_path)
    schedule = {
        "output": str(tmp_path / "grown"),
        "recipe": str(path),
        "stage": {"name": "base", "resolution": 16},
        "nodes": [
            {"interval": {"level": 0, "index": 0}, "steps": 2},
            {"interval": {"level": 1, "index": 0}, "steps": 2, "parent": {"level": 0, "index": 0}},
            {"interval": {"level": 1, "index": 1}, "steps": 2, "parent": {"level": 0, "index": 0}, "overrides": change},
        ],
    }
    (place := tmp_path / "grow.yaml").write_text(yaml.safe_dump(schedule))
    for more in (["--dry-run"], []) if told else (["--dry-run"],):
        assert main(["grow", "--config", str(place), *more]) == (told is not None)
        assert (told or "") in capsys.readouterr().err
    assert not (tmp_path / "grown").exists()


WIDE, EXTEND = {"model.denoiser.init_args.channels": 32}, {"model.denoiser.init_args.attention_levels": [0, 1]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([WIDE, WIDE], r"node \(1, 0\) has channels 32, and its parent \(0, 0\) has 16"),
        ([{"model.noise.mean": 0.5}, {}], r"node \(1, 1\) has noise.mean -0.2, and node \(1, 0\) has 0.5"),
        ([{"model.noise.mean": 0.5}] * 2, None),
        ([EXTEND, EXTEND], r"node \(1, 0\) has attention_levels \[0, 1\], and its parent"),
        ([EXTEND | {"start": {"extend": True}}] * 2, None),
        (
            [EXTEND | {"start": {"extend": True}}, {}],
            r"node \(1, 1\) has attention_levels .*, and node \(1, 0\) has \[0, 1",
        ),
    ],
)
def test_nodes_that_make_no_stage_are_refused_before_the_first_step(
    overrides: list[dict[str, Any]], message: str | None, recipe: Recipe, tmp_path: Path
) -> None:
    base = recipe("base", tmp_path)
    config = yaml.safe_load(base.read_text())
    config["model"]["denoiser"]["init_args"]["attention_levels"] = [1]
    base.write_text(yaml.safe_dump(config | {"start": {}}))
    nodes = [GrowthNode(ROOT, 4), *(GrowthNode(c, 2, ROOT, o) for c, o in zip(ROOT.children, overrides, strict=True))]
    if message is None:
        assert grow(tmp_path / "out", base, nodes, STAGE, overrides=OVERRIDES, dry_run=True) is None
        return
    with pytest.raises(ValueError, match=message):
        grow(tmp_path / "out", base, nodes, STAGE, overrides=OVERRIDES, dry_run=True)


def test_a_parent_that_goes_on_after_its_children_is_refused(grown: Path, recipe: Recipe, tmp_path: Path) -> None:
    """They started from the weights that it had before; of a parent that is removed, too."""
    output = Path(shutil.copytree(grown, tmp_path / "grown"))
    base, longer = recipe("base", tmp_path), [GrowthNode(ROOT, 6), *NODES[1:]]
    with pytest.raises(ValueError, match=r"node \(1, 0\) was grown from \(0, 0\), which is at step 4 of 6: remove "):
        grow(output, base, longer, STAGE, overrides=OVERRIDES, dry_run=True)
    for child in ("1-0", "1-1"):
        shutil.rmtree(output / child)
    assert grow(output, base, longer, STAGE, overrides=OVERRIDES, dry_run=True) is None


def test_a_node_that_has_lost_its_parent_is_told(
    grown: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = [GrowthNode(Interval(1, 0), 2), GrowthNode(Interval(1, 1), 4)]
    grow(grown, recipe("base", tmp_path), alone, STAGE, overrides=OVERRIDES, dry_run=True)
    assert f"{grown / '1-0'} is done, with start.checkpoint {grown / '0-0'}" in caplog.text


def test_a_trunk_and_what_is_grown_from_it_share_network_and_noise(grown: Path, recipe: Recipe, tmp_path: Path) -> None:
    trunk, node = TrunkStage(str(grown / "stage"), "base"), [GrowthNode(Interval(1, 1), 4)]
    base = recipe("base", tmp_path)
    for change, message in ((WIDE, "has channels 32, and "), ({"model.noise.mean": 0.5}, "has noise.mean 0.5, and ")):
        with pytest.raises(ValueError, match=message):
            grow(tmp_path / "out", base, node, STAGE, trunk=trunk, overrides=OVERRIDES | change, dry_run=True)
    assert grow(tmp_path / "out", base, node, STAGE, trunk=trunk, overrides=OVERRIDES, dry_run=True) is None


def schedule(nodes: list[GrowthNode], output: Path, trunk: TrunkStage | None = None) -> GrowthSchedule:
    return GrowthSchedule(output, nodes, trunk)


CHILDREN = [GrowthNode(child, 2, ROOT) for child in ROOT.children]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [GrowthNode(ROOT, 2), GrowthNode(LOW, 2, ROOT)],
            r"no expert owns the noise quantiles 1/4 to 1, after \(2, 0\)",
        ),
        ([GrowthNode(ROOT, 2), *CHILDREN, GrowthNode(LOW, 2, ROOT)], r"the experts of \(2, 0\) and \(1, 0\) overlap"),
        (
            [GrowthNode(ROOT, 2), GrowthNode(LOW, 2, Interval(1, 0))],
            r"parent \(1, 0\) of node \(2, 0\) is not among the nodes",
        ),
        (
            [GrowthNode(Interval(1, 0), 2, ROOT), GrowthNode(ROOT, 2)],
            r"parent \(0, 0\) of node \(1, 0\) is not among the nodes",
        ),
        ([GrowthNode(ROOT, 2), *CHILDREN, GrowthNode(LOW, 2, Interval(1, 1))], "does not own all of its noise"),
        ([GrowthNode(ROOT, 2), GrowthNode(ROOT, 2)], r"node \(0, 0\) twice"),
        ([GrowthNode(ROOT, 0)], "steps of node .* at least 1, got 0"),
        ([], "the schedule has no nodes"),
    ],
)
def test_a_wrong_schedule_is_refused_before_anything_runs(
    nodes: list[GrowthNode], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(nodes, tmp_path)


def test_a_level_or_index_out_of_range_is_one_line(recipe: Recipe, tmp_path: Path, capsys) -> None:
    config = growth_recipe(tmp_path / "out", tmp_path / "grow.yaml", recipe("base", tmp_path))
    config.write_text(config.read_text().replace("index: 1", "index: 2"))
    assert main(["grow", "--config", str(config)]) in (1, 2)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "index of a noise interval must be in 0 to 1 at level 1, got 2" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "nowhere.yaml"}, "the recipe of the nodes does not exist: nowhere.yaml"),
        ({"overrides": {"model.nothing.here": 1}}, "override 'model.nothing.here' is not in the recipe"),
        ({"trunk": {"model": "toybox", "stage": "bass"}}, "has no stage 'bass'"),
        ({"trunk": {"model": "toybax", "stage": "base"}}, "no model 'toybax'"),
        ({"noodles": []}, "noodles"),
    ],
)
def test_bad_settings_are_one_line(
    change: dict[str, Any], message: str, recipe: Recipe, tmp_path: Path, capsys
) -> None:
    config = growth_recipe(tmp_path / "out", tmp_path / "grow.yaml", recipe("base", tmp_path))
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | change))
    assert main(["grow", "--config", str(config)]) in (1, 2)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: ")
    assert message in line


def test_steps_that_would_not_be_saved_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a multiple of the recipe's every_n_train_steps \(2\).*got 3"):
        grow(tmp_path, recipe("base", tmp_path), [GrowthNode(ROOT, 3)], STAGE, overrides=OVERRIDES, run_node=main)


def test_a_folder_with_another_nodes_run_is_refused(grown: Path, recipe: Recipe, tmp_path: Path) -> None:
    nodes = [GrowthNode(ROOT, 4, run=grown / "1-1")]
    with pytest.raises(ValueError, match=r"is of node \(1, 1\) grown from \(0, 0\), the schedule has \(0, 0\)"):
        grow(tmp_path, recipe("base", tmp_path), nodes, STAGE, run_node=main)
    with pytest.raises(ValueError, match="has 4 steps, the schedule has 2"):
        schedule([GrowthNode(ROOT, 2, run=grown / "0-0")], tmp_path).steps_done(GrowthNode(ROOT, 2, run=grown / "0-0"))


def test_a_broken_checkpoint_is_named(grown: Path, tmp_path: Path) -> None:
    place = tmp_path / "0-0" / "checkpoints"
    place.mkdir(parents=True)
    (place / "last.ckpt").write_bytes((grown / "0-0/checkpoints/last.ckpt").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.ckpt is broken, or not a file of torch.save"):
        schedule([GrowthNode(ROOT, 2)], tmp_path).steps_done(GrowthNode(ROOT, 2))


def regions(model: Path) -> list[NoiseInterval]:
    return [expert.interval for expert in load_cascade(model).stages[0].denoiser.experts]


@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
def test_one_expert_of_a_published_ensemble_is_fine_tuned(
    grown: Path, recipe: Recipe, tmp_path: Path, rank: int
) -> None:
    trunk = TrunkStage(str(grown / "stage"), "base")
    settings = OVERRIDES | {"start": {"lora": {"rank": rank}}}
    place = grow(
        tmp_path,
        recipe("base", tmp_path),
        [GrowthNode(Interval(1, 1), 4)],
        STAGE,
        trunk=trunk,
        overrides=settings,
        run_node=main,
    )
    assert place is not None
    old, new = (json.loads((m / "config.json").read_text())["stages"][0]["experts"] for m in (grown / "stage", place))
    assert new[0] == old[0], "the other expert is the same, byte for byte"
    assert (place / new[0]["file"]).read_bytes() == (grown / "stage" / old[0]["file"]).read_bytes()
    assert new[1]["sha256"] != old[1]["sha256"]
    assert new[1]["parent"] == {"level": 1, "index": 1}
    assert regions(place) == [Interval(1, 0), Interval(1, 1)]
    if rank:
        trained = torch.load(tmp_path / "1-1/checkpoints/last.ckpt", weights_only=True)["current_model_state"]
        base = load_cascade(grown / "stage").stages[0].denoiser.denoisers[1].state_dict()
        frozen = {k: v for k, v in trained.items() if "lora_" not in k}
        for key, value in base.items():
            candidates = [f"denoiser.{key}", "denoiser." + ".base_layer.".join(key.rsplit(".", 1))]
            assert any(torch.equal(frozen[c], value) for c in candidates if c in frozen), key
        merged = read_run(tmp_path / "1-1")[0].weights
        child = DiffusionStage(build_denoiser(read_run(tmp_path / "1-1")[1]), interval=Interval(2, 3))
        InitialWeights(checkpoint=tmp_path / "1-1" / "checkpoints" / "last.ckpt")(child)
        assert same(dict(child.denoiser.state_dict()), dict(merged)), "a child starts from the merged weights"
        changed = sum(not torch.equal(merged[k], v) for k, v in base.items())
        assert 0 < changed < len(base)


def test_runs_compose_without_a_schedule(grown: Path, tmp_path: Path) -> None:
    runs = [grown / "1-1", grown / "1-0"]
    stage = trained_stage(StageRecipe("base", 16, runs))
    assert [trained.expert.interval for trained in stage.experts] == [Interval(1, 1), Interval(1, 0)]
    again = trained_stage(StageRecipe("renamed", 16, grown / "stage"))
    assert (again.name, len(again.experts)) == ("renamed", 2)
    with pytest.raises(ValueError, match="has no run to compose it of"):
        trained_stage(StageRecipe("base", 16))
    other = Path(shutil.copytree(grown / "1-1", tmp_path / "other"))
    content = torch.load(other / "checkpoints/last.ckpt", weights_only=False)
    content["expert"]["stage"]["denoiser"]["arguments"]["sigma_data"] = 0.7
    del content["ediffi_sha256"]
    (other / "checkpoints/last.ckpt").unlink()
    torch.save(content, other / "checkpoints/last.ckpt")
    with pytest.raises(ValueError, match=r"other trained another network than .*1-0; the experts of a stage share"):
        trained_stage(StageRecipe("base", 16, [grown / "1-0", other]))


def test_a_run_starts_only_from_a_parent_that_owns_its_noise(
    grown: Path, recipe: Recipe, tmp_path: Path, capsys
) -> None:
    words = ["fit", "--config", str(recipe("base", tmp_path)), "--model.interval", "{level: 1, index: 0}"]
    words += ["--model.denoiser.init_args.channels", "16", "--model.denoiser.init_args.head_channels", "8"]
    assert main([*words, "--start.checkpoint", str(grown / "1-1/checkpoints/last.ckpt")]) == 1
    assert "was trained on noise (1, 1), which does not contain (1, 0)" in capsys.readouterr().err
    assert main([*words, "--start.checkpoint", str(tmp_path / "no.ckpt")]) == 1
    assert "no.ckpt" in capsys.readouterr().err
    assert main([*words[:-4], "--start.checkpoint", str(grown / "0-0/checkpoints/last.ckpt")]) == 1
    assert "has the weights of another network" in capsys.readouterr().err
    assert main([*words, "--start.model", str(grown / "stage")]) in (1, 2)
    assert "model and stage go together" in capsys.readouterr().err
    assert (
        main([*words[:4], "{level: 0, index: 0}", "--start.model", str(grown / "stage"), "--start.stage", "base"]) == 1
    )
    assert "owns all of (0, 0)" in capsys.readouterr().err


def test_a_run_may_extend_the_network_of_its_parent(grown: Path) -> None:
    """New pooled embeddings and attention at more levels change nothing until they are trained."""
    path = grown / "0-0" / "checkpoints" / "last.ckpt"
    run = read_run(grown / "0-0")
    same_network = build_denoiser(run.denoiser)
    same_network.load_state_dict(run.expert.weights)
    arguments = denoisers.architecture(run.denoiser.name, run.denoiser.arguments)[1]
    widths, more = arguments["tokens"], {"attention_levels": [0, 1], "pooled": {**arguments["pooled"], "t5": 64}}

    def larger(**arguments: Any) -> DiffusionStage:
        return DiffusionStage(build_denoiser(replace(run.denoiser, arguments={**run.denoiser.arguments, **arguments})))

    with pytest.raises(ValueError, match=r"another network than the recipe's denoiser: its attention_levels is"):
        InitialWeights(checkpoint=path)(larger(**more))
    child = larger(**more)
    InitialWeights(checkpoint=path, extend=True)(child)
    assert child.denoiser.state_dict().keys() > run.expert.weights.keys()
    tokens, mask = {n: torch.randn(2, 3, width) for n, width in widths.items()}, torch.ones(2, 3, dtype=torch.bool)
    sources = {n: Embedding(tokens[n], mask, torch.randn(2, width)) for n, width in more["pooled"].items()}
    inputs = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 2.0]), Conditioning(sources)
    assert torch.equal(same_network(*inputs), child.denoiser(*inputs))
    for other in ({"attention_levels": []}, {"channels": 24}, {"num_res_blocks": 3}, {"pooled": {}}):
        with pytest.raises(ValueError, match="has the weights of another network"):
            InitialWeights(checkpoint=path, extend=True)(larger(**other))
    with pytest.raises(ValueError, match=r"no start\.checkpoint is named"):
        InitialWeights(extend=True)


def test_experts_are_listed_and_drawn(grown: Path, tmp_path: Path, capsys) -> None:
    assert main(["experts", str(grown / "stage"), "--output", str(tmp_path / "tree.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "base, unet_toybox, ln sigma ~ N(-0.2, 1.2²)"
    network = load_cascade(grown / "stage").stages[0].denoiser.denoisers[0]
    count = f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M"
    assert lines[2].split() == [
        "1",
        "0",
        "0",
        "to",
        "0.8187",
        "50",
        "%",
        "(0,",
        "0)",
        "2",
        *count.split(),
        "base-1-0.safetensors",
    ]
    assert lines[3].split()[2:5] == ["0.8187", "to", "inf"]
    from PIL import Image

    with Image.open(tmp_path / "tree.png") as picture:
        assert picture.width > 800
    assert main(["experts", str(grown / "stage"), "--stage", "sr"]) == 1
    assert "has no stage 'sr'; its stages are base" in capsys.readouterr().err
