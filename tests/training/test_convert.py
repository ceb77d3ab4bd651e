"""`ediffi convert`: tensors come out as they were, ADM-64 becomes a trunk, what is refused is said in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from ediffi import cli
from ediffi.cli.fit import QUIET
from ediffi.diffusion.noise import ROOT, Interval, LogNormal
from ediffi.registry import denoisers
from ediffi.registry.denoisers.adm import from_adm
from ediffi.training import checkpoint as checkpoints
from ediffi.training.convert import convert, convert_adm
from ediffi.training.lightning_module import DiffusionStage
from ediffi.training.lora import Lora
from ediffi.training.start import InitialWeights
from tests.registry.test_adm import TINY, published_state

Recipe = Callable[..., Path]
pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]
SMALL: dict[str, Any] = {"channels": 32, "norm_groups": 4, "context_width": 32}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def fails(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert cli.main(["convert", *map(str, words)]) != 0
    printed = capsys.readouterr()
    assert printed.err.startswith("ediffi: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


# Tensors as they are


def states() -> dict[str, torch.Tensor]:
    wide = torch.randn(4, 6)
    return {
        "a.weight": torch.randn(3, 5),
        "half": torch.randn(7).bfloat16(),
        "steps": torch.tensor(3),
        "none": torch.empty(0, 4),
        "turned": torch.randn(2, 3).T,
        "row": wide[1],
        "columns": wide[:, 2:4],
        "tied": wide,
        "mask": torch.tensor([True, False]),
        "parameter": nn.Parameter(torch.randn(2)),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older format"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model_ema"])
def test_every_tensor_comes_out_as_it_was(tmp_path: Path, zipped: bool, wrap: str | None) -> None:
    state = states()
    content = state if wrap is None else {wrap: state, "epoch": 3, "optimizer": {"lr": 0.1}}
    source = saved(tmp_path / "w.bin", content, _use_new_zipfile_serialization=zipped)
    output = tmp_path / "w.safetensors"
    number = convert(source, output, wrap if wrap == "model_ema" else None)
    assert number == sum(tensor.numel() for tensor in state.values())
    found = load_file(output)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor.detach())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.bin", "w.safetensors"]
    assert output.stat().st_mode & 0o777 == 0o644


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = saved(tmp_path / "w.pt", {"a": torch.ones(1500)}), tmp_path / "w.safetensors"
    assert cli.main(["convert", str(source), str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: 1.5 K parameters\n"


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ([torch.ones(1)], (), "holds a list, not weights by name"),
        (torch.ones(1), (), "holds a Tensor, not weights by name"),
        ({}, (), "holds no weights by name"),
        ({"model": {"a": torch.ones(1)}, "epoch": 3}, (), "say which entry they are by --key, of epoch, model"),
        ({"model": {"a": torch.ones(1)}}, ("--key", "modle"), "has no entry 'modle'; it has model"),
        ({"model": {"a": torch.ones(1)}, "epoch": 3}, ("--key", "epoch"), "holds no weights by name as 'epoch'"),
        ({"model": {"a": 3}}, ("--key", "model"), "holds 'a', which is no tensor with a name"),
        ({3: torch.ones(1)}, (), "holds 3, which is no tensor with a name"),
        ({"a": torch.eye(3).to_sparse()}, (), "cannot hold 'a', a sparse or quantised tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_what_is_no_weights_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, options: tuple[str, ...], sentence: str
) -> None:
    source = saved(tmp_path / "w.pt", content)
    assert sentence in fails(capsys, source, tmp_path / "w.safetensors", *options)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is broken, or not a file of torch.save"),
        (b"hello world", "is broken, or not a file of torch.save"),
        (b"PK\x03\x04 and no more", "is broken, or not a file of torch.save (File is not a zip file"),
    ],
)
def test_a_broken_source_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, sentence: str
) -> None:
    (tmp_path / "w.pt").write_bytes(data)
    line = fails(capsys, tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert str(tmp_path / "w.pt") in line
    assert sentence in line


def test_a_checkpoint_cut_at_any_place_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = saved(tmp_path / "w.pt", states()).read_bytes()
    for cut in range(0, len(data), 97):
        (tmp_path / "cut.pt").write_bytes(data[:cut])
        assert str(tmp_path / "cut.pt") in fails(capsys, tmp_path / "cut.pt", tmp_path / "w.safetensors")


def test_files_are_not_overwritten_or_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = saved(tmp_path / "w.pt", {"a": torch.ones(1)}), tmp_path / "w.safetensors"
    assert "must end in .safetensors, got " in fails(capsys, source, tmp_path / "w.bin")
    assert "is no file" in fails(capsys, tmp_path / "none.pt", output)
    output.write_text("mine")
    assert "exists already" in fails(capsys, source, output)
    assert output.read_text() == "mine"
    output.unlink()
    assert "--arguments and --attention go with --layout adm64" in fails(
        capsys, source, output, "--attention", "legacy"
    )

    def cut(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_text("half")
        raise safetensors.SafetensorError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", cut)
    assert "could not be written: no space left" in fails(capsys, source, output)
    assert list(tmp_path.iterdir()) == [source]


# Checkpoints of our own, and how a run starts from them


def small() -> nn.Module:
    return denoisers.create("unet_toybox", **SMALL)


def our_checkpoint(path: Path, denoiser: nn.Module, lora: Lora | None = None) -> Path:
    state = {f"denoiser.{name}": tensor for name, tensor in denoiser.state_dict().items()}
    entry = checkpoints.describe(LogNormal(), Interval(1, 0), ROOT, lora)
    return saved(path, {"state_dict": state, "global_step": 7, "epoch": 0, checkpoints.KEY: entry, "loops": {}})


def test_a_run_starts_from_a_converted_checkpoint_as_from_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = our_checkpoint(tmp_path / "last.ckpt", small())
    convert(source, tmp_path / "w.safetensors")
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["ediffi"])["steps"] == 7
    stages = []
    for start in (InitialWeights(checkpoint=source), InitialWeights(weights=tmp_path / "w.safetensors")):
        stage = DiffusionStage(small(), interval=Interval(2, 1))
        start(stage)
        assert stage.parent == Interval(1, 0)
        stages.append(stage.state_dict())
    assert stages[0].keys() == stages[1].keys()
    assert all(torch.equal(tensor, stages[1][name]) for name, tensor in stages[0].items())
    with pytest.raises(ValueError, match=r"was trained on noise .*, which does not contain"):
        InitialWeights(weights=tmp_path / "w.safetensors")(DiffusionStage(small(), interval=Interval(1, 1)))


def test_an_adapter_is_not_taken_for_weights(tmp_path: Path) -> None:
    source = our_checkpoint(tmp_path / "last.ckpt", small(), Lora(rank=2))
    with pytest.raises(ValueError, match="low-rank adapter, which ediffi compose merges"):
        convert(source, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: state.pop("network.stem.bias"), r"'network.stem.bias' is none in the file, \[32\]"),
        (lambda state: state.update(more=torch.ones(1)), r"'more' is \[1\] in the file, none in the network"),
        (lambda state: state.update({"network.stem.bias": torch.ones(7)}), r"'network.stem.bias' is \[7\] in .*\[32\]"),
    ],
    ids=["missing", "left over", "shape"],
)
def test_weights_of_another_network_name_the_first_wrong_tensor(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], sentence: str
) -> None:
    state, path = small().state_dict(), tmp_path / "w.safetensors"
    change(state)
    save_file(state, path)
    with pytest.raises(ValueError, match=sentence):
        InitialWeights(weights=path)(DiffusionStage(small()))


def test_a_run_starts_from_one_thing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of checkpoint, model and weights, not from several"):
        InitialWeights(weights=tmp_path / "w.safetensors", model="toybox", stage="base")
    with pytest.raises(FileNotFoundError, match="there are no weights"):
        InitialWeights(weights=tmp_path / "w.safetensors")(DiffusionStage(small()))
    (tmp_path / "w.safetensors").write_text("no")
    with pytest.raises(ValueError, match=r"is not a safetensors file .*; ediffi convert makes one"):
        InitialWeights(weights=tmp_path / "w.safetensors")(DiffusionStage(small()))
    save_file({k: v.contiguous() for k, v in small().state_dict().items()}, tmp_path / "x.safetensors", {"ediffi": "["})
    with pytest.raises(ValueError, match="records a broken noise interval"):
        InitialWeights(weights=tmp_path / "x.safetensors")(DiffusionStage(small()))


# ADM-64


def test_adm_becomes_the_state_of_our_network(tmp_path: Path) -> None:
    published = published_state()
    source = saved(tmp_path / "64x64_diffusion.pt", published)
    number = convert_adm(source, tmp_path / "w.safetensors", TINY, "legacy")
    found = load_file(tmp_path / "w.safetensors")
    assert number == sum(tensor.numel() for tensor in found.values())
    denoiser = denoisers.create("unet_adm64", **TINY)
    denoiser.load_state_dict(found)
    wanted = from_adm(published, denoiser.network, "legacy")
    assert all(torch.equal(found[f"network.{name}"], tensor) for name, tensor in wanted.items())
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        note = json.loads(file.metadata()["ediffi"])
    assert note["denoiser"]["name"] == "unet_adm64"
    assert note["denoiser"]["arguments"] == json.loads(json.dumps(TINY))


def test_what_adm_does_not_have_is_the_same_each_time(tmp_path: Path) -> None:
    source = saved(tmp_path / "64x64_diffusion.pt", published_state())
    for name in ("a", "b"):
        convert_adm(source, tmp_path / f"{name}.safetensors", TINY)
        torch.rand(1)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"chanels": 3}, "chanels"),
        ({"channels": "many"}, "Got value: many"),
        ({**TINY, "channels": 64}, "these are not the weights of an ADM of this size"),
        ({**TINY, "norm_groups": 7}, "there is no unet_adm64 with"),
        ({**TINY, "attention_levels": [5]}, "attention_levels has 5"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], sentence: str
) -> None:
    source = saved(tmp_path / "64x64_diffusion.pt", published_state())
    options = ("--layout", "adm64", "--arguments", json.dumps(arguments))
    assert sentence in fails(capsys, source, tmp_path / "w.safetensors", *options)


@pytest.mark.slow
def test_a_recipe_trains_on_from_adm(tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    widths = {"clip_text": 128, "t5": 128, "clip_image": 128}
    arguments = {**TINY, "tokens": widths, "pooled": {"clip_text": 128, "clip_image": 128}}
    source, output = saved(tmp_path / "64x64_diffusion.pt", published_state()), tmp_path / "trunk.safetensors"
    options = ["--layout", "adm64", "--arguments", json.dumps(arguments)]
    assert cli.main(["convert", str(source), str(output), *options]) == 0
    printed = capsys.readouterr().out.partition("In a recipe of ediffi fit:")[2]
    content = yaml.safe_load(recipe("base", tmp_path).read_text())
    told = yaml.safe_load(printed)
    content["start"], content["model"]["denoiser"] = told["start"], told["model"]["denoiser"]
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(content))
    assert cli.main(["fit", "--config", str(path)]) == 0
    trained = checkpoints.read(tmp_path / "base" / "checkpoints" / "last.ckpt")
    assert trained.expert.steps == 2
    begun = load_file(output)
    moved = [float((trained.weights[name] - tensor).abs().max()) for name, tensor in begun.items()]
    assert 0 < max(moved) < 0.01
