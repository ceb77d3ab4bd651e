"""`ediffi fit` parses recipes as LightningCLI does; a recipe sets nothing that follows from another of its settings."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.optim.lr_scheduler import OneCycleLR

from ediffi.cli import main, recipes
from ediffi.cli.fit import QUIET
from ediffi.training.one_cycle import OneCycle, over

TOYBOX = recipes.folder() / "toybox"
TINY = {"channels": 16, "head_channels": 8, "norm_groups": 4}
LINKED = ("max_lr", "total_steps", "dirpath", "save_dir")
"""What follows from the optimizer's rate, the steps and the folder of a run."""

pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]
Recipe = Callable[..., Path]
Content = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def configs(name: str) -> list[str]:
    """The --config words of a recipe's own command in its header."""
    lines = recipes.path_of(name).read_text().splitlines()
    words = next(line.split()[3:] for line in lines if line.startswith("#   ediffi fit ") and f"{name}.yaml" in line)
    return [str(recipes.folder().parent / word) if word.endswith(".yaml") else word for word in words]


def stages() -> list[str]:
    models = {name: yaml.safe_load(recipes.path_of(name).read_text()).get("model", {}) for name in recipes.names()}
    return [name for name, model in models.items() if "denoiser" in model]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `ediffi fit ... --print_config` prints."""

    def printed(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["fit", *words, "--print_config"])
        assert stop.value.code in (None, 0)
        return capsys.readouterr().out

    return printed


def tiny(recipe: Recipe, folder: Path, **trainer: Any) -> Path:
    """The recipe of the base stage at small size, silent about logs, places and the length of the schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    path = recipe("base", folder)
    config = yaml.safe_load(path.read_text())
    config["model"]["denoiser"]["init_args"] |= TINY
    config["model"]["lr_scheduler"]["init_args"].pop("total_steps")
    config["trainer"]["callbacks"][1]["init_args"].pop("dirpath")
    config["trainer"] |= {"default_root_dir": str(folder / "run"), "enable_model_summary": False, **trainer}
    path.write_text(yaml.safe_dump(config))
    return path


def checkpoint(run: Path) -> Content:
    loaded = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert isinstance(loaded, dict)
    return loaded


def inside(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: ")
    return line


@pytest.fixture(scope="module")
def done(recipe: Recipe, new_folder: Callable[[str], Path]) -> Path:
    """The folder of a finished run of two steps."""
    folder = new_folder("done")
    assert main(["fit", "--config", str(tiny(recipe, folder))]) == 0
    return folder / "run"


# LightningCLI's conventions


@pytest.mark.parametrize("name", stages())
def test_every_recipe_parses_and_what_is_printed_is_a_recipe(
    name: str, printed: Callable[..., str], tmp_path: Path
) -> None:
    once = printed(*configs(name))
    whole = tmp_path / "whole.yaml"
    whole.write_text(once)
    assert printed("--config", str(whole)) == once


def test_later_configs_override_earlier_ones_and_words_override_both(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "model: {denoiser: {init_args: {channels: 32, context_width: 64}}}\ndata: {batch_size: 7}\n"
    )
    both = ["--config", str(TOYBOX / "base.yaml"), "--config", str(tmp_path / "mine.yaml")]
    words = ["--model.denoiser.init_args.channels", "48", "--data.seed=5"]
    config = yaml.safe_load(printed(*both, *words))
    arguments = config["model"]["denoiser"]["init_args"]
    assert (arguments["channels"], arguments["context_width"], arguments["sigma_data"]) == (48, 64, 0.6)
    assert (config["data"]["batch_size"], config["data"]["seed"], config["data"]["image_size"]) == (7, 5, 16)
    (tmp_path / "mine.yaml").write_text("data: {batch_size: 7, val_batches: 3}\n")
    swapped = yaml.safe_load(printed(*both[2:], *both[:2]))["data"]
    assert (swapped["batch_size"], swapped["val_batches"]) == (128, 3), "the shipped recipe came last"


def test_another_part_starts_from_its_own_defaults(printed: Callable[..., str]) -> None:
    words = ["--model.denoiser", "ediffi.registry.denoisers.unet_base64", "--model.denoiser.init_args.channels", "64"]
    denoiser = yaml.safe_load(printed("--config", str(TOYBOX / "base.yaml"), *words))["model"]["denoiser"]
    assert denoiser["class_path"] == "ediffi.registry.denoisers.unet_base64"
    assert (denoiser["init_args"]["channels"], denoiser["init_args"]["context_width"]) == (64, 1024)


def test_a_callback_is_added_to_those_of_the_recipe(printed: Callable[..., str]) -> None:
    words = ["--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks.logging_interval=step"]
    plain, added = (yaml.safe_load(printed("--config", str(TOYBOX / "base.yaml"), *w)) for w in ([], words))
    *same, monitor = added["trainer"]["callbacks"]
    assert same == plain["trainer"]["callbacks"]
    assert monitor["class_path"] == "lightning.pytorch.callbacks.LearningRateMonitor"
    assert monitor["init_args"]["logging_interval"] == "step"


# The run directory is set once


def test_no_recipe_says_what_follows() -> None:
    def keys(value: Any) -> Iterator[str]:
        for key, inner in value.items() if isinstance(value, dict) else []:
            yield key.rpartition(".")[2]
            yield from keys(inner)
        for inner in value if isinstance(value, list) else []:
            yield from keys(inner)

    for name in recipes.names():
        assert not set(keys(yaml.safe_load(recipes.path_of(name).read_text()))) & set(LINKED), name


def test_checkpoints_curves_and_recipe_go_into_the_folder_of_the_run(done: Path) -> None:
    names = set(inside(done))
    assert {"config.yaml", "checkpoints/last.ckpt"} <= names
    assert [name.count("/") for name in names if "tfevents" in name] == [0]
    assert {path.name for path in done.parent.iterdir()} == {"run", "base.yaml"}


def test_the_recipe_of_a_run_is_a_recipe(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it is, it is the same run; with another folder, the same run there, and the first is not touched."""
    before = inside(done)
    words = ["fit", "--config", str(done / "config.yaml")]
    assert main(words) == 0
    assert "this run is done" in capsys.readouterr().out
    assert main([*words, "--trainer.default_root_dir", str(tmp_path / "again")]) == 0
    assert inside(done) == before
    first, second = checkpoint(done), checkpoint(tmp_path / "again")
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert all(torch.equal(value, second["state_dict"][key]) for key, value in first["state_dict"].items())
    assert [name for name in inside(tmp_path / "again") if "tfevents" in name]
    told = (tmp_path / "again" / "config.yaml").read_text()
    assert told.replace(str(tmp_path / "again"), str(done)) == (done / "config.yaml").read_text()


def test_a_run_without_logs_trains_as_well(recipe: Recipe, tmp_path: Path) -> None:
    assert main(["fit", "--config", str(tiny(recipe, tmp_path, logger=False))]) == 0
    made = inside(tmp_path / "run")
    assert "checkpoints/last.ckpt" in made
    assert not [name for name in made if "tfevents" in name or "metrics" in name]


def test_another_logger_is_the_recipe_s_own_and_moves_no_checkpoint(done: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Not even where a run is resumed from a checkpoint that is given by name."""
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "csv")}}
    words = ["--model.lr_scheduler", "null", "--trainer.max_steps", "4"]
    named = ["--ckpt_path", str(done / "checkpoints" / "last.ckpt")]
    assert main(["fit", "--config", str(tiny(recipe, tmp_path, logger=logger)), *words, *named]) == 0
    assert [name for name in inside(tmp_path / "csv") if name.endswith("metrics.csv")]
    assert not [name for name in inside(tmp_path) if "tfevents" in name]
    assert checkpoint(tmp_path / "run")["global_step"] == 4
    assert list(tmp_path.rglob("*.ckpt")) == [tmp_path / "run" / "checkpoints" / "last.ckpt"]


# The learning rate and the length of its schedule are set once


def adamw(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.AdamW(groups)


def curve(schedule: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[list[float]]:
    """The rate of each parameter group at each step."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


def test_it_is_torch_s_schedule_with_the_optimizer_s_own_rates() -> None:
    ours, theirs = adamw(2e-3, 5e-4), adamw(1.0, 1.0)
    settings: Content = {"pct_start": 0.04, "final_div_factor": 100}
    one = curve(over(partial(OneCycle, total_steps=None, **settings), ours, 50), ours, 50)
    other = curve(OneCycleLR(theirs, [2e-3, 5e-4], 50, cycle_momentum=False, **settings), theirs, 50)
    assert one == other
    assert max(rate for rate, _ in one) == 2e-3
    assert ours.param_groups[0]["betas"] == (0.9, 0.999)


def test_what_is_said_is_kept() -> None:
    optimizer = adamw(2e-3)
    schedule = over(partial(OneCycle, max_lr=0.5, total_steps=80), optimizer, 50)
    assert (optimizer.param_groups[0]["max_lr"], schedule.total_steps) == (0.5, 80)
    theirs = over(partial(OneCycleLR, max_lr=0.5, total_steps=None, epochs=None), adamw(2e-3), 50)
    assert theirs.total_steps == 50, "torch's own may leave its length open too"
    cosine = over(partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=7), adamw(2e-3), 50)
    assert cosine.T_max == 7


@pytest.mark.parametrize(
    ("steps", "max_steps", "message"),
    [
        (40, 50, r"total_steps 40, .*trainer\.max_steps 50"),
        (None, -1, r"trainer\.max_steps must be given"),
        (0, 50, "total_steps"),
    ],
)
def test_a_schedule_that_is_no_run_s(steps: int | None, max_steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        over(partial(OneCycle, total_steps=steps), adamw(1e-3), max_steps)


def test_a_schedule_that_waits_for_a_validation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau waits for a validation.*goes by steps"):
        over(partial(torch.optim.lr_scheduler.ReduceLROnPlateau), adamw(1e-3), 50)


def test_the_help_of_a_denoiser_lists_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("registry.denoisers.unet_toybox", "ediffi.registry.denoisers.unet_toybox", "unet_toybox"):
        assert main(["fit", "--config", "toybox/base", "--model.denoiser.help", name]) == 0
        assert "head_channels" in capsys.readouterr().out
    assert main(["fit", "--model.denoiser.help", "ediffi.registry.denoisers.unet_toybux"]) == 1
    assert "unet_toybox" in error(capsys)


def test_a_rate_and_a_length_on_the_command_line_move_the_schedule(recipe: Recipe, tmp_path: Path) -> None:
    words = ["--model.optimizer.init_args.lr", "3e-3", "--trainer.max_steps", "4"]
    assert main(["fit", "--config", str(tiny(recipe, tmp_path)), *words]) == 0
    state = checkpoint(tmp_path / "run")
    (schedule,), (group,) = state["lr_schedulers"], state["optimizer_states"][0]["param_groups"]
    assert (state["global_step"], schedule["total_steps"], group["max_lr"]) == (4, 4, 3e-3)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["lr_scheduler"]["init_args"]
    assert (saved["max_lr"], saved["total_steps"]) == (None, None), "so that the saved recipe is as free"


def test_a_run_whose_rate_has_ended_is_not_made_longer(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "--config", str(done / "config.yaml"), "--trainer.max_steps", "4"]
    assert main(words) == 1
    assert "a run with trainer.max_steps 2, this recipe has 4" in error(capsys)


def test_a_run_of_constant_rate_is_made_longer(recipe: Recipe, tmp_path: Path) -> None:
    words = ["fit", "--config", str(tiny(recipe, tmp_path)), "--model.lr_scheduler", "null"]
    assert main(words) == main([*words, "--trainer.max_steps", "4"]) == 0
    assert checkpoint(tmp_path / "run")["global_step"] == 4


def test_a_schedule_shorter_than_the_run_is_one_clear_line(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model.lr_scheduler.init_args.total_steps", "1"]
    assert main(["fit", "--config", str(tiny(recipe, tmp_path)), *words]) == 1
    assert "ends after total_steps 1" in error(capsys)
