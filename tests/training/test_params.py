"""Counting parameters: against real networks, against formulas, and what the command prints."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from ediffi.cli import main, recipes
from ediffi.cli.plan import PAPER_EACH, readable
from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import Interval, LogNormal
from ediffi.hub.config import Part
from ediffi.hub.models import SHIPPED
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade
from ediffi.registry import denoisers
from ediffi.training.estimate.params import EncoderParameters, NetworkParameters, count

TOP = recipes.folder().parent
ENCODERS = SHIPPED / "toybox" / "encoders"
TINY = {"channels": 32, "norm_groups": 4, "context_width": 32}
STAGE = {"name": "base", "resolution": 16}


def t5_parameters(vocabulary: int, width: int, inner: int, layers: int, heads: int, head_width: int) -> int:
    """A gated T5 encoder: tokens, relative positions of 32 buckets, four projections, three of the feed-forward."""
    layer = 4 * width * heads * head_width + 3 * width * inner + 2 * width
    return vocabulary * width + 32 * heads + layers * layer + width


def transformer_parameters(width: int, layers: int) -> int:
    """CLIP's blocks: attention (4w² + 4w), a feed-forward four times as wide (8w² + 5w), two layer norms (4w)."""
    return layers * (12 * width**2 + 13 * width)


XXL = t5_parameters(vocabulary=32128, width=4096, inner=10240, layers=24, heads=64, head_width=64)
CLIP_TEXT = (49408 + 77) * 768 + transformer_parameters(768, 12) + 2 * 768 + 768 * 768
CLIP_IMAGE = 3 * 14**2 * 1024 + (1 + 257) * 1024 + transformer_parameters(1024, 24) + 4 * 1024 + 1024 * 768


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def fit_recipe(path: Path, name: str = "unet_toybox", run: str | None = None, **arguments: Any) -> Path:
    denoiser = {"class_path": f"ediffi.registry.denoisers.{name}", "init_args": arguments}
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"save_last": True}}
    trainer = {"callbacks": [saver], "default_root_dir": run}
    return written(path, {"model": {"denoiser": denoiser}, "data": {}, "trainer": trainer})


def grow_recipe(path: Path, fit: Path, nodes: list[dict[str, Any]], **settings: Any) -> Path:
    return written(path, {"recipe": str(fit), "output": "runs/grown", "nodes": nodes, "stage": STAGE, **settings})


def compose_recipe(path: Path, parts: dict[str, Any], files: Path | None = None, *runs: str) -> Path:
    stages = [{"name": f"stage{number}", "resolution": 16, "run": run} for number, run in enumerate(runs)]
    parts = {source: {"name": name, "arguments": arguments} for source, (name, arguments) in parts.items()}
    encoder_files = None if files is None else str(files)
    return written(path, {"name": "tiny", "stages": stages, "encoder_parts": parts, "encoder_files": encoder_files})


def networks(path: Path) -> NetworkParameters:
    counted = count(path)
    assert isinstance(counted, NetworkParameters)
    return counted


def encoders(path: Path) -> EncoderParameters:
    counted = count(path)
    assert isinstance(counted, EncoderParameters)
    return counted


def weights(denoiser: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in denoiser.parameters())


HALVES = [{"interval": {"level": 1, "index": index}, "steps": 1} for index in (0, 1)]


# What is counted


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("unet_toybox", TINY), ("efficient_toybox64", {}), ("efficient_toybox256", {"channels": 16})],
)
def test_a_network_has_as_many_parameters_as_the_real_one(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    counted = networks(fit_recipe(tmp_path / "r.yaml", name, **arguments))
    real = denoisers.create(name, **arguments)
    assert counted.denoiser == name
    assert counted.total == counted.each == sum(counted.parts.values()) == weights(real)


def test_parts_are_told_apart(tmp_path: Path) -> None:
    parts = networks(fit_recipe(tmp_path / "r.yaml", **TINY)).parts
    assert list(parts) == ["embedding", "stem", "down", "middle", "up", "out"]
    assert parts["stem"] == 9 * 3 * 32 + 32
    assert parts["out"] == 9 * 32 * 3 + 3 + 2 * 32, "the closing norm is of the output"
    real = denoisers.create("efficient_toybox64")
    parts = networks(fit_recipe(tmp_path / "r.yaml", "efficient_toybox64")).parts
    assert parts["down"] == weights(real.network.down) + weights(real.network.halving)
    assert parts["up"] == weights(real.network.up) + weights(real.network.doubling)


def test_a_network_of_other_parts_is_counted_whole(tmp_path: Path) -> None:
    linear = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 5}}
    denoiser = {"class_path": "ediffi.registry.denoisers.precondition.Preconditioned", "init_args": {"network": linear}}
    counted = networks(written(tmp_path / "r.yaml", {"model": {"denoiser": denoiser}}))
    assert counted.parts == {"weight": 15, "bias": 5}


def test_experts_are_the_leaves_and_the_recipe_may_stand_beside(tmp_path: Path) -> None:
    recipe = fit_recipe(tmp_path / "tiny.yaml", **TINY)
    root = {"interval": {"level": 0, "index": 0}, "steps": 1}
    nodes = [root, *({**half, "parent": root["interval"]} for half in HALVES)]
    counted = networks(grow_recipe(tmp_path / "g.yaml", Path("elsewhere/tiny.yaml"), nodes))
    assert counted.experts == ["(1, 0)", "(1, 1)"]
    assert counted.each == networks(recipe).each
    assert counted.total == 2 * counted.each
    assert counted.run == Path("runs/grown/stage")


def test_one_leaf_is_no_ensemble(tmp_path: Path) -> None:
    recipe = fit_recipe(tmp_path / "tiny.yaml", **TINY)
    counted = networks(grow_recipe(tmp_path / "g.yaml", recipe, [{"interval": {"level": 0, "index": 0}, "steps": 1}]))
    assert counted.experts == ()
    assert counted.total == counted.each


def test_overrides_of_a_schedule_are_heeded(tmp_path: Path) -> None:
    recipe = fit_recipe(tmp_path / "tiny.yaml", **TINY)
    name = "model.denoiser.init_args.channels"
    counted = networks(grow_recipe(tmp_path / "g.yaml", recipe, HALVES, overrides={name: 64}))
    assert counted.each == weights(denoisers.create("unet_toybox", **{**TINY, "channels": 64}))
    odd = [HALVES[0], {**HALVES[1], "overrides": {name: 64}}]
    with pytest.raises(ValueError, match=r"gives node \(1, 1\) another network"):
        count(grow_recipe(tmp_path / "g.yaml", recipe, odd))


def test_what_is_kept_of_a_trunk_is_counted(tmp_path: Path) -> None:
    state = denoisers.create("unet_toybox", **TINY).state_dict()
    experts = [TrainedExpert(Expert(Interval(1, index)), state) for index in (0, 1)]
    stage = TrainedStage("base", 16, Part("unet_toybox", TINY), LogNormal(), experts, Sampling())
    trunk = save_cascade(tmp_path / "trunk", "trunk", {}, None, [stage])
    recipe = fit_recipe(tmp_path / "tiny.yaml", **TINY)
    path = grow_recipe(tmp_path / "g.yaml", recipe, HALVES[1:], trunk={"model": str(trunk), "stage": "base"})
    assert networks(path).experts == ["(1, 0)", "(1, 1)"]


def test_the_paper_s_encoders_have_the_sizes_that_their_constants_say(tmp_path: Path) -> None:
    assert XXL == 4_762_310_656
    assert CLIP_TEXT == 123_650_304
    parts = {"t5": ("t5_xxl", {}), "clip_text": ("clip_l14_text", {}), "clip_image": ("clip_l14_image", {})}
    counted = encoders(compose_recipe(tmp_path / "c.yaml", parts))
    assert counted.texts == [("t5_xxl", XXL), ("clip_l14_text", CLIP_TEXT)]
    assert counted.images == [("clip_l14_image", CLIP_IMAGE)]
    assert counted.total == XXL + CLIP_TEXT, "table 1 counts text encoders only"


def test_encoders_in_a_folder_are_counted_as_they_are_stored(tmp_path: Path) -> None:
    parts = {
        "t5": ("t5", {"path": "encoders/t5"}),
        "again": ("t5_xxl", {"path": str(ENCODERS / "t5")}),
        "clip_text": ("clip_text", {"path": "encoders/clip"}),
        "clip_image": ("clip_image", {"path": "encoders/clip"}),
    }
    counted = encoders(compose_recipe(tmp_path / "c.yaml", parts, ENCODERS))
    t5 = safetensors.torch.load_file(ENCODERS / "t5" / "model.safetensors")
    clip = safetensors.torch.load_file(ENCODERS / "clip" / "open_clip_model.safetensors")
    sizes = {part: sum(v.numel() for k, v in clip.items() if k.startswith("visual.") == part) for part in (True, False)}
    of_t5 = sum(value.numel() for value in t5.values())
    assert counted.texts == [
        ("t5", of_t5),
        ("t5_xxl", of_t5),
        ("clip_text", sizes[False] - clip["logit_scale"].numel()),
    ]
    assert counted.images == [("clip_image", sizes[True])]


# What is printed


def test_the_paper_s_cascade_is_printed_and_summed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOP)
    assert main(["params", "paper/experts_base64", "paper/experts_sr256", "paper/sr1024", "paper/cascade"]) == 0
    lines = capsys.readouterr().out.splitlines()
    base, sr256, sr1024 = (networks(recipes.path_of(f"paper/{name}")).each for name in ("base64", "sr256", "sr1024"))
    assert [round(each / 1e6) for each in (base, sr256, sr1024)] == [1025, 498, 214], "as the README tells them"
    ours = [line.partition("  paper")[0] for line in lines]
    rows = [line.rsplit(maxsplit=2) for line in ours if line.startswith(("  one", "  3", "  2", "  all", "all"))]
    trained = 3 * base + 2 * sr256 + sr1024
    wanted = [base, 3 * base, sr256, 2 * sr256, sr1024, trained]
    assert [f"{number} {unit}" for _, number, unit in rows] == [readable(number) for number in wanted]
    assert [line for line in lines if line.startswith("  embedding")] == ["  embedding                2.9 M"] + 2 * [
        "  embedding                1.2 M"
    ]
    assert lines[0].endswith("3 experts: (3, 0); all without (3, 0) and (9, 511); (9, 511)")
    assert "  t5_xxl               4,762.3 M" in lines
    assert "  clip_l14_image         304.0 M  not counted" in lines
    total, paper = lines[-2:]
    assert total.split("  counted")[0].split(maxsplit=1)[1].strip() == readable(trained + XXL + CLIP_TEXT)
    assert paper.split() == ["paper", "9,100", "M", "configuration", "D,", "to", "0.1", "B"]
    assert abs(trained + XXL + CLIP_TEXT - 9.1e9) < 0.1e9
    assert 0.95e9 < base < 1.05e9, "half of D - B"
    assert lines[7] == f"{'  one expert':<20}{readable(base):>12}  paper: {PAPER_EACH['unet_base64']}"


def test_the_paper_s_other_configurations_are_told_by_their_experts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOP)
    assert main(["params", "paper/base64", "paper/experts_sr256", "paper/sr1024", "paper/cascade"]) == 0
    assert "configuration B, to 0.1 B" in capsys.readouterr().out
    assert main(["params", "paper/base64", "paper/sr1024", "paper/cascade"]) == 0
    assert "configuration" not in capsys.readouterr().out


def test_a_stage_that_no_recipe_makes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = fit_recipe(tmp_path / "f.yaml", run="runs/one", **TINY)
    growth = grow_recipe(tmp_path / "g.yaml", fit, HALVES)
    parts = {"t5": ("t5", {"path": "encoders/t5"})}
    cascade = compose_recipe(tmp_path / "c.yaml", parts, ENCODERS, "runs/one", "runs/grown/stage", "runs/two")
    assert main(["params", str(fit), str(growth), str(cascade)]) == 0
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("without")]
    assert missing == [f"without stage stage2 of {cascade}: no recipe here makes runs/two"]
    assert main(["params", str(cascade)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("without stage") == 3
    assert "total" not in printed


def test_one_network_needs_no_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", str(fit_recipe(tmp_path / "f.yaml", **TINY))]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{tmp_path / 'f.yaml'}: unet_toybox"
    assert printed[-1].split() == ["all", "parts", *readable(weights(denoisers.create("unet_toybox", **TINY))).split()]


@pytest.mark.parametrize(
    ("number", "text"),
    [(715_496_707, "715.5 M"), (4_762_310_656, "4,762.3 M"), (1_000_000, "1.0 M"), (999_949, "999.9 K"), (7, "0.0 K")],
)
def test_numbers_are_readable(number: int, text: str) -> None:
    assert readable(number) == text


# What is refused


def error_line(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["params", *words]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("ediffi: error: ")
    return printed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: RECIPE"),
        (["--fast"], "--fast"),
        (["toybox/base", "toybox/base"], "twice"),
        (["toybox/base", "recipes/toybox/base.yaml"], "twice"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOP)
    assert message in error_line(words, 2, capsys)


def test_an_unknown_recipe_is_answered_with_the_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(["paper/base65"], 1, capsys)
    assert "no file or recipe named 'paper/base65'; did you mean paper/base64" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "r.yaml is not YAML: "),
        ("", "r.yaml is no recipe: it is a NoneType"),
        ("- 1", "r.yaml is no recipe: it is a list"),
        ("seed: 1", "r.yaml is no recipe: one of ediffi fit has model with a denoiser"),
        ("model: 3", "r.yaml is no recipe: one of ediffi fit"),
        ("model: {denoiser: null}", "r.yaml: missing: denoiser"),
        ("model: {denoiser: ediffi.registry.denoisers.unet_tuybox}", "unet_tuybox"),
        ("model: {denoiser: os.system}", "a recipe may not import 'os.system'"),
        (
            "model: {denoiser: {class_path: ediffi.registry.denoisers.unet_toybox, init_args: {chanels: 3}}}",
            "'chanels' is not accepted",
        ),
        (
            "model: {denoiser: {class_path: ediffi.registry.denoisers.unet_toybox, init_args: {channels: wide}}}",
            "Got value: wide",
        ),
        (
            "model: {denoiser: {class_path: ediffi.registry.denoisers.unet_toybox, init_args: {channels: -4}}}",
            "r.yaml: channels must be from 1 to 8192, got -4",
        ),
        (
            "model: {denoiser: {class_path: registry.denoisers.unet_toybox, init_args: {attention_levels: [7]}}}",
            "r.yaml: attention_levels has 7; levels are 0 to 1",
        ),
    ],
)
def test_a_wrong_recipe_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line([str(written(tmp_path / "r.yaml", content))], 1, capsys)


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    assert "r.yaml is not YAML: " in error_line([str(tmp_path / "r.yaml")], 1, capsys)


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([{**HALVES[0], "stps": 1}, HALVES[1]], {}, "'stps' is not accepted"),
        ([{"interval": {"level": 1, "index": 2}, "steps": 1}], {}, "index of a noise interval must be in 0 to 1"),
        (HALVES[:1], {}, "no expert owns the noise quantiles 1/2 to 1"),
        (HALVES, {"overrides": {"model.denoiser.chanels.x": 1}}, "is not in the recipe"),
        (HALVES, {"recipe": "elsewhere/nothing.yaml"}, "does not exist: elsewhere/nothing.yaml"),
        (HALVES, {"trunk": {"model": "nowhere", "stage": "base"}}, "no model 'nowhere'"),
    ],
)
def test_a_wrong_schedule_is_one_line(
    nodes: list[dict[str, Any]],
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = grow_recipe(tmp_path / "g.yaml", fit_recipe(tmp_path / "tiny.yaml", **TINY), nodes, **settings)
    assert message in error_line([str(path)], 1, capsys)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (("t5_xxxl", {}), "no encoder named 't5_xxxl'; did you mean t5_xxl"),
        (("t5_xxl", {"pth": "x"}), "encoder t5_xxl: got an unexpected keyword argument 'pth'"),
        (("t5", {}), "encoder t5: missing a required argument: 'path'"),
        (("t5_xxl", {"path": "google/t5-v1_1-xl"}), "no folder 'google/t5-v1_1-xl': expected a text encoder"),
        (("clip_text", {"path": "encoders/nothing"}), "expected a CLIP"),
        (("t5", {"path": "encoders/t5"}), "transformers has no model_type"),
        (("clip_image", {"path": "encoders/clip"}), "cannot be built: "),
    ],
)
def test_a_wrong_encoder_is_one_line(
    part: tuple[str, dict[str, Any]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, config in (("t5/config.json", {"d_model": "x"}), ("clip/open_clip_config.json", {"model_cfg": {"a": 1}})):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(config))
    assert message in error_line([str(compose_recipe(tmp_path / "c.yaml", {"x": part}, tmp_path))], 1, capsys)


def test_an_encoder_of_another_package_is_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ediffi.registry import encoders as menu

    def mine() -> None:
        pytest.fail("the encoder was loaded")

    monkeypatch.setitem(menu.REGISTRY._factories, "mine", mine)
    path = compose_recipe(tmp_path / "c.yaml", {"x": ("mine", {})})
    assert "encoder mine declares no sizes" in error_line([str(path)], 1, capsys)
