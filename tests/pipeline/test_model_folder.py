"""A stage on disk: every expert listed with noise, parent and hash; what does not add up is refused by name."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from ediffi.cli import main
from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import ROOT, Complement, Interval, LogNormal
from ediffi.hub.config import Part
from ediffi.pipeline import checkpoint
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import load_cascade
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.style import Style
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade
from ediffi.registry import denoisers
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, Embedding

TINY = {"channels": 16, "channel_mults": [1, 1], "head_channels": 8, "norm_groups": 4, "context_width": 16}
LOW, HIGH = Interval(2, 0), Interval(2, 3)
MIDDLE = Complement((LOW, HIGH))


def state(seed: int, **changes: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in {**TINY, **changes}.items()}
    denoiser = denoisers.create("unet_toybox", **arguments)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.05)
    return denoiser.state_dict()


def ensemble(regions=(HIGH, LOW, MIDDLE)) -> TrainedStage:
    experts = [TrainedExpert(Expert(r, ROOT, 40 + k), state(k)) for k, r in enumerate(regions)]
    sampling = Sampling("euler", num_inference_steps=4)
    return TrainedStage("base", 8, Part("unet_toybox", TINY), LogNormal(-0.2, 1.2), experts, sampling)


@pytest.fixture(scope="module")
def saved(new_folder: Callable[[str], Path]) -> Path:
    return save_cascade(new_folder("stage") / "stage", "stage", {}, None, [ensemble()])


@pytest.fixture
def broken(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "broken"))


def edit(model: Path, change) -> None:
    config = json.loads((model / "config.json").read_text())
    change(config["stages"][0]["experts"])
    (model / "config.json").write_text(json.dumps(config))


def cond() -> Conditioning:
    embedding = Embedding(torch.randn(1, 3, 128), torch.ones(1, 3, dtype=torch.bool), torch.randn(1, 128))
    t5 = Embedding(embedding.tokens, embedding.mask)
    return Conditioning({"t5": t5, "clip_text": embedding, "clip_image": embedding})


def test_experts_come_back_as_they_were(saved: Path) -> None:
    tree = load_cascade(saved).stages[0].denoiser
    assert [expert.interval for expert in tree.experts] == [LOW, MIDDLE, HIGH]
    assert [(expert.parent, expert.steps) for expert in tree.experts] == [(ROOT, 41), (ROOT, 42), (ROOT, 40)]
    for denoiser, seed in zip(tree.denoisers, (1, 2, 0), strict=True):
        for key, value in state(seed).items():
            assert torch.equal(denoiser.state_dict()[key], value.bfloat16().float()), key
    assert tree.noise == LogNormal(-0.2, 1.2)


def test_the_manifest_is_plain_and_complete(saved: Path) -> None:
    rows = json.loads((saved / "config.json").read_text())["stages"][0]["experts"]
    assert [row["file"] for row in rows] == [
        "base-2-0.safetensors",
        "base-without-2-0-2-3.safetensors",
        "base-2-3.safetensors",
    ]
    assert rows[1]["interval"] == {"without": [{"level": 2, "index": 0}, {"level": 2, "index": 3}]}
    assert all(len(row["sha256"]) == 64 and row["parent"] == {"level": 0, "index": 0} for row in rows)


def test_streamed_and_resident_folders_paint_the_same_bits(saved: Path) -> None:
    told = cond()
    pictures = []
    for residency in ("resident", "stream"):
        stage = load_cascade(saved, residency=residency).stages[0]
        pictures.append(stage(told, Philox(0, [0])))
    assert torch.equal(*pictures)


def test_sample_takes_the_residency(model_folder: Path, tmp_path: Path) -> None:
    for residency in ("resident", "stream"):
        words = ["sample", "a red circle", "--model", str(model_folder), "--expert-residency", residency]
        assert main([*words, "-o", str(tmp_path / f"{residency}.png")]) == 0
    from PIL import Image

    pixels = []
    for name in ("resident", "stream"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels.append(picture.tobytes())
    assert pixels[0] == pixels[1]


@pytest.mark.parametrize("residency", ["resident", "stream"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.pop(0),
            "no expert owns the noise quantiles 0 to 1/4, between the beginning and all without",
        ),
        (lambda rows: rows.pop(2), r"no expert owns the noise quantiles 3/4 to 1, after all without \(2, 0\)"),
        (lambda rows: rows[0]["interval"].update(level=1), r"experts of \(1, 0\) and all without .* overlap"),
        (
            lambda rows: rows[2]["interval"].update(index=4),
            "index of a noise interval must be in 0 to 3 at level 2, got 4",
        ),
        (lambda rows: rows[2]["interval"].update(depth=4), "depth: Extra inputs are not permitted"),
        (lambda rows: rows[2].update(sha256="0" * 64), r"base-2-3\.safetensors has sha256 .* truncated or changed"),
        (lambda rows: rows[2].update(file="../base-2-3.safetensors"), "must be in .* itself"),
        (
            lambda rows: rows[2].pop("steps"),
            "stages.0.experts.2.steps: Field required",
        ),
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused(broken: Path, change, message: str, residency: str) -> None:
    edit(broken, change)
    with pytest.raises(ValueError, match=message):
        Cascade.from_pretrained(broken, expert_residency=residency)


@pytest.mark.parametrize("name", ["adapter_config.json", "special_tokens_map.json", "more.safetensors"])
def test_a_file_beside_an_encoder_that_is_not_listed_is_refused(model_folder: Path, tmp_path: Path, name: str) -> None:
    """transformers would read an adapter, or other special tokens, that no hash covers."""
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (model / "encoders" / "t5" / "README.md").write_text("is no part of an encoder")
    Cascade.from_pretrained(model)
    (model / "encoders" / "t5" / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"encoders/t5/{name} is not listed in config\.json, .*: remove it"):
        Cascade.from_pretrained(model)


@pytest.mark.parametrize("residency", ["resident", "stream"])
def test_an_encoder_that_a_stage_reads_and_the_model_lacks_is_named(
    model_folder: Path, tmp_path: Path, residency: str
) -> None:
    """The network would take it for a dropped one: any prompt would be the same image."""
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    whole = Cascade.from_pretrained(model)
    del config["encoders"]["clip_image"]
    (model / "config.json").write_text(json.dumps(config))
    without = Cascade.from_pretrained(model, expert_residency=residency)
    options = {"seed": 1, "num_inference_steps": 1}
    assert without("a circle", **options).images == whole("a circle", **options).images  # it has no style image
    with pytest.raises(ValueError, match="the model has no encoder"):
        without("a circle", style=Style(Image.new("RGB", (8, 8))), **options)
    config["encoders"] = {}
    (model / "config.json").write_text(json.dumps(config))
    none = Cascade.from_pretrained(model, expert_residency=residency)
    with pytest.raises(ValueError, match=r"stage 'base' reads clip_text, and the model has no encoder of it"):
        none("a circle", **options)
    assert none(cond=whole.encode(["a circle"]), **options).images == whole("a circle", **options).images


def test_encoders_of_a_cascade_share_a_clip_and_two_cascades_do_not(model_folder: Path) -> None:
    """Encoders stand where the stages stand: one that moves must take its CLIP along, and no other cascade's."""
    one, other = (load_cascade(model_folder).encoders for _ in range(2))
    assert one["clip_text"].model is one["clip_image"].model
    one["clip_text"].to("meta")
    assert one["clip_image"].device.type == "meta"
    assert other["clip_text"].device.type == "cpu"


def test_streaming_refuses_a_file_that_was_overwritten_after_loading(broken: Path) -> None:
    stage = load_cascade(broken, residency="stream").stages[0]
    other = bytearray((broken / "base-2-0.safetensors").read_bytes())
    other[-1] ^= 1
    (broken / "base-2-0.safetensors").write_bytes(bytes(other))
    with pytest.raises(ValueError, match=r"base-2-0\.safetensors has sha256 .*: changed after it was loaded"):
        stage(cond(), Philox(0, [0]))


def test_networks_are_built_once_and_no_weight_is_drawn(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []
    built = []
    build = checkpoint.build_denoiser
    monkeypatch.setattr(checkpoint, "build_denoiser", lambda part: (built.append(part), build(part))[1])
    uniform = torch.Tensor.uniform_
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda t, *a, **k: (drawn.append(t), uniform(t, *a, **k))[1])
    load_cascade(saved)
    assert len(built) == 1
    assert not drawn


class Counting(nn.Module):
    """A plug-in's denoiser whose constructor reads its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.first = float(self.linear.weight[0, 0])


def test_a_constructor_that_reads_its_weights_is_built_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(denoisers.REGISTRY._factories, "counting", Counting)
    network = checkpoint._build_empty(Part("counting", {}))
    assert not network.linear.weight.is_meta
    assert checkpoint._build_empty(Part("unet_toybox", TINY)).network.stem.weight.is_meta


def test_a_missing_expert_is_named(broken: Path) -> None:
    (broken / "base-2-3.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"base-2-3\.safetensors is missing, the expert of noise \(2, 3\)"):
        Cascade.from_pretrained(broken)


def test_an_expert_from_another_architecture_is_named(tmp_path: Path) -> None:
    stage = ensemble()
    stage.experts[0] = TrainedExpert(Expert(HIGH, ROOT, 1), state(0, channels=32))
    made = save_cascade(tmp_path / "mixed", "mixed", {}, None, [stage])
    with pytest.raises(ValueError, match=r"base-2-3\.safetensors has the weights of another network"):
        Cascade.from_pretrained(made)


def test_a_stage_with_a_gap_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no expert owns"):
        save_cascade(tmp_path / "gap", "gap", {}, None, [ensemble((LOW, HIGH))])
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_residency_is_named(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "a red circle", "--expert-residency", "steam"]) == 2
    assert "--expert-residency expects one of resident, stream, got 'steam'" in capsys.readouterr().err


WRITE = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import test_model_folder
from ediffi import cli
from ediffi.pipeline.trained_stage import save_cascade
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
stage = test_model_folder.ensemble()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
cli._dispatch = lambda argv: save_cascade(Path({place!r}), "full", {{}}, None, [stage])
sys.exit(cli.main([]))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the disk: both fail in the same write."""
    tests = Path(__file__).parent
    program = WRITE.format(root=str(tests.parent.parent), tests=str(tests), place=str(tmp_path / "full"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("ediffi: error: base-2-0.safetensors could not be written: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
