"""The paper's recipes: they parse, hold the paper's numbers, and their headers' commands fit them."""

from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml

from ediffi.cli import main, recipes
from ediffi.diffusion.noise import ROOT, Complement, Interval, interval_from
from ediffi.pipeline.stage import Sampling
from ediffi.training.growth.grow import node_settings
from ediffi.training.growth.schedule import GrowthNode, GrowthSchedule

TOP = recipes.folder().parent
PAPER = recipes.folder() / "paper"
FIT = ("base64", "sr256", "sr1024")
GROW = ("experts_base64", "experts_sr256")
BATCH = 2048

STEPS = {"base64": 1_900_000, "sr256": 2_000_000, "sr1024": 1_700_000}
"""eDiff-I, table 7."""
GPUS = {"base64": 32, "sr256": 128, "sr1024": 128}
"""Ours: the paper has 256, 128 and 128 A100."""

NETWORKS = {
    "base64": ("unet_base64", {"channels": 256, "channel_mults": [1, 2, 4, 4], "num_res_blocks": 3}),
    "sr256": ("efficient_sr256", {"channels": 128, "channel_mults": [1, 2, 4, 8], "num_res_blocks": [2, 4, 8, 8]}),
    "sr1024": ("efficient_sr1024", {"channels": 128, "channel_mults": [1, 2, 4, 4], "num_res_blocks": [2, 4, 8, 8]}),
}
"""eDiff-I, appendix A."""

PICTURES = {"base64": (64, None), "sr256": (256, None), "sr1024": (1024, 256)}
LEAVES = {
    "experts_base64": [Interval(3, 0), Complement((Interval(3, 0), Interval(9, 511))), Interval(9, 511)],
    "experts_sr256": [Interval(1, 0), Interval(1, 1)],
}


def content(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((PAPER / f"{name}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `ediffi fit` would run, with all defaults filled in, as its own parser has it."""
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    assert stop.value.code in (None, 0)
    config = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(config, dict)
    return config


def batch(config: dict[str, Any]) -> int:
    """Pictures an optimiser step."""
    trainer = config["trainer"]
    factors = (trainer["devices"], trainer["num_nodes"], trainer["accumulate_grad_batches"])
    return prod(factors) * int(config["data"]["batch_size"])


def schedule(name: str, output: Path) -> GrowthSchedule:
    nodes = [
        GrowthNode(
            interval_from(node["interval"]), node["steps"], interval_from(node["parent"]) if "parent" in node else None
        )
        for node in content(name)["nodes"]
    ]
    return GrowthSchedule(output, nodes, None)


def commands(name: str) -> list[list[str]]:
    """The words after `ediffi` of the header's commands."""
    header = (PAPER / f"{name}.yaml").read_text().partition("\nseed")[0].splitlines()
    lines = [line.removeprefix("#   ") for line in header if line.startswith("#   ")]
    return [line.partition("ediffi ")[2].split() for line in lines if line.startswith(("ediffi ", "srun "))]


@pytest.mark.parametrize("name", FIT)
def test_a_stage_is_trained_as_table_7_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(["fit", "--config", str(PAPER / f"{name}.yaml")], capsys)
    model, trainer = config["model"], config["trainer"]
    optimizer = model["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    wanted = {"lr": 1e-4, "weight_decay": 0.01, "betas": [0.9, 0.999]}
    assert {key: optimizer["init_args"][key] for key in wanted} == wanted
    assert model["lr_scheduler"] is None
    assert model["noise"] == {"mean": -1.2, "std": 1.2}
    assert model["dropout"] == {"clip_text": 0.2, "t5": 0.25, "clip_image": 0.9}
    assert trainer["max_steps"] == STEPS[name]
    assert trainer["devices"] * trainer["num_nodes"] == GPUS[name]
    assert batch(config) == config["data"]["step_size"] == BATCH
    readers = GPUS[name] * config["data"]["num_workers"]
    assert config["data"]["lanes"] == readers, "each shard is read by one process"
    assert config["data"]["chunk"] == config["data"]["batch_size"]
    assert trainer["strategy"]["class_path"].endswith(".DDPStrategy")
    assert trainer["strategy"]["init_args"]["gradient_as_bucket_view"] is True
    assert (model["compile"], trainer["benchmark"], trainer["precision"]) == (True, True, "bf16-mixed")
    callbacks = {entry["class_path"].rpartition(".")[2]: entry["init_args"] for entry in trainer["callbacks"]}
    assert callbacks["EMA"]["decay"] == 0.9999
    assert callbacks["ModelCheckpoint"]["save_last"] is True
    assert STEPS[name] % callbacks["ModelCheckpoint"]["every_n_train_steps"] == 0, "the last step is saved"


@pytest.mark.parametrize("name", FIT)
def test_a_stage_has_the_network_of_appendix_a(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(["fit", "--config", str(PAPER / f"{name}.yaml")], capsys)
    denoiser, settings = config["model"]["denoiser"], NETWORKS[name][1]
    assert denoiser["class_path"] == f"ediffi.registry.denoisers.{NETWORKS[name][0]}"
    assert {key: denoiser["init_args"][key] for key in settings} == settings
    assert denoiser["init_args"]["sigma_data"] == 0.5
    assert denoiser["init_args"]["gradient_checkpointing"] is False, "the batch of a GPU fits without"
    assert (config["data"]["image_size"], config["data"]["crop_size"]) == PICTURES[name]
    assert (config["model"]["low_res"] or {"scale": None})["scale"] == (None if name == "base64" else 4)
    degradation = config["data"]["degradation"]
    assert name == "base64" or (degradation["strength"], degradation["probability"]) == (1.0, 0.5)
    assert (degradation is None) == (name == "base64")


@pytest.mark.parametrize("name", GROW)
def test_the_leaves_of_a_schedule_are_the_paper_s_experts(name: str, tmp_path: Path) -> None:
    leaves = schedule(name, tmp_path).leaves
    assert sorted((leaf.interval for leaf in leaves), key=lambda region: region.spans) == LEAVES[name]
    assert sum(node["steps"] for node in content(name)["nodes"]) == STEPS[name.removeprefix("experts_")]


def test_the_base_is_grown_down_both_branches_as_table_5_says(tmp_path: Path) -> None:
    nodes = schedule("experts_base64", tmp_path).nodes
    parents = {node.interval: node.parent for node in nodes}
    for leaf, depth in ((Interval(9, 511), 9), (Interval(3, 0), 3)):
        for _ in range(depth):
            parent = parents[leaf]
            assert isinstance(parent, Interval)
            assert leaf in parent.children
            leaf = parent
        assert leaf == ROOT
    assert parents[LEAVES["experts_base64"][1]] == ROOT, "the complement starts from the shared model"
    steps = {node.interval: node.steps for node in nodes}
    assert steps.pop(ROOT) == 500_000
    assert (min(steps.values()), max(steps.values())) == (40_000, 190_000)
    for node in nodes:
        assert node.parent in (None, ROOT) or steps[node.interval] < steps[node.parent]


@pytest.mark.parametrize("name", GROW)
def test_a_schedule_is_planned(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOP)
    words = ["grow", "--config", str(PAPER / f"{name}.yaml"), "--output", str(tmp_path), "--dry-run"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    nodes = content(name)["nodes"]
    assert len(lines) == len(nodes)
    assert lines[0] == f"(0, 0), node 1 of {len(nodes)}: {nodes[0]['steps']} steps from random weights, seed 0, to do"
    assert all(line.endswith(", to do") for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", recipes.names("*/experts_*"))
def test_all_schedules_that_ship_can_run(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOP)
    assert main(["grow", "--config", name, "--output", str(tmp_path), "--dry-run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", GROW)
def test_every_node_is_one_process_group_that_saves_its_last_step(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    growth, plan = content(name), schedule(name, tmp_path)
    recipe = yaml.safe_load((TOP / growth["recipe"]).read_text())
    for node in plan.nodes:
        settings = node_settings(recipe, plan, node, growth.get("overrides"))
        (tmp_path / "node.yaml").write_text(yaml.safe_dump(settings))
    config = printed(["fit", "--config", str(tmp_path / "node.yaml")], capsys)
    trainer = config["trainer"]
    assert trainer["max_steps"] == plan.nodes[-1].steps
    assert batch(config) == BATCH
    assert trainer["devices"] * trainer["num_nodes"] == GPUS[name.removeprefix("experts_")]


def test_the_cascade_is_made_of_what_the_other_recipes_make() -> None:
    stages = {stage["name"]: stage for stage in content("cascade")["stages"]}
    for name in GROW:
        growth = content(name)
        stage = stages.pop(growth["stage"]["name"])
        assert stage == {**growth["stage"], "run": f"{growth['output']}/stage"}
    (last,) = stages.values()
    assert last["run"] == content("sr1024")["trainer"]["default_root_dir"]


def test_the_cascade_is_sampled_as_the_paper_s_preset_says() -> None:
    for stage, calls in zip(content("cascade")["stages"], (76, 31, 31), strict=True):
        sampling = Sampling(**stage["sampling"])
        assert sampling == sampling.with_sampler("paper-steps", super_resolution=stage.get("aug_level") is not None)
        assert sampling.nfe == calls


def test_the_cascade_parses_and_says_which_run_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compose", "--config", str(PAPER / "cascade.yaml"), "--output", "model"]) == 1
    assert capsys.readouterr().err.startswith("ediffi: error: runs/paper/experts_base64/stage/config.yaml is missing")


@pytest.mark.parametrize("name", recipes.names("paper/*"))
def test_a_recipe_opens_with_the_commands_that_run_it(name: str) -> None:
    path = recipes.path_of(name)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith(".")
    assert lines[1] == "#"
    assert lines[2].startswith("#   ediffi ")
    assert max(map(len, lines)) <= 120
    named = [words[words.index("--config") + 1] for words in commands(path.stem) if "--config" in words]
    assert str(path.relative_to(TOP)) in named
    assert all((TOP / file).is_file() for file in named)
    counted = [word for words in commands(path.stem) if words[0] == "params" for word in words[1:]]
    assert set(counted) <= set(recipes.names())


@pytest.mark.parametrize("name", FIT)
def test_every_way_to_start_a_stage_has_the_batch_of_table_7(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    starts = [words for words in commands(name) if words[0] == "fit"]
    assert len(starts) == 3, "a start on each machine, SLURM, and one machine"
    for words in starts:
        words[words.index("--config") + 1] = str(PAPER / f"{name}.yaml")
        assert batch(printed(words, capsys)) == BATCH
