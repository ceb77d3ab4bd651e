"""Where a cascade computes and in which format: what is recorded, what is refused, what reaches the networks."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from ediffi.cli import main
from ediffi.diffusion.experts import AutocastDenoiser
from ediffi.io import png
from ediffi.pipeline import conditioning
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.cascade_generator import CascadeGenerator

PROMPT = "a red circle"


def test_a_command_runs_in_a_format_and_the_image_says_so(tmp_path: Path, model_folder: Path) -> None:
    out = tmp_path / "out.png"
    assert main(["sample", PROMPT, "--model", str(model_folder), "--dtype", "bfloat16", "-o", str(out)]) == 0
    settings = png.settings_of(out)
    assert (settings["dtype"], settings["compile"]) == ("bfloat16", False)
    assert main(["upscale", str(out), PROMPT, "--model", str(model_folder), "-o", str(tmp_path / "b.png")]) == 0
    assert png.settings_of(tmp_path / "b.png")["dtype"] == "float32"
    edited = [
        "edit",
        str(out),
        PROMPT,
        "--model",
        str(model_folder),
        "--dtype",
        "bfloat16",
        "-o",
        str(tmp_path / "c.png"),
    ]
    assert main(edited) == 0
    assert png.settings_of(tmp_path / "c.png")["dtype"] == "bfloat16"


def test_a_run_in_another_format_is_another_run(tmp_path: Path, model_folder: Path) -> None:
    cascade = Cascade.from_pretrained(model_folder, dtype="bfloat16")
    assert CascadeGenerator(cascade).settings["dtype"] == "bfloat16"
    (tmp_path / "prompts.txt").write_text(PROMPT + "\n")
    out = tmp_path / "out"
    words = ["sample", "--prompts", str(tmp_path / "prompts.txt"), "--model", str(model_folder), "-o", str(out)]
    assert main(words) == 0
    assert json.loads((out / "run.json").read_text())["settings"]["dtype"] == "float32"
    assert main([*words, "--dtype", "bfloat16"]) == 1


@pytest.mark.parametrize("command", [["sample", PROMPT], ["edit", "x.png", PROMPT], ["upscale", "x.png", PROMPT]])
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--device", "gpu"], 1, "device is 'gpu'; it must be auto, cpu, cuda or one GPU, such as cuda:1"),
        (["--device", "quda:1"], 1, "device is 'quda:1'; it must be"),
        (["--dtype", "half"], 2, "--dtype expects one of float32, bfloat16, float16, got 'half'"),
        (["--dtype", "float16", "--device", "cpu"], 1, "dtype float16 needs a GPU"),
    ],
)
def test_what_does_not_exist_is_refused_in_a_sentence(
    command: list[str],
    options: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("x.png")
    assert main([*command, *options]) == code
    assert re.fullmatch(r"ediffi: error: .*" + re.escape(message) + r".*\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", [["sample", PROMPT], ["evaluate", "--count", "2"], ["studio", "--port", "0"]])
def test_the_options_reach_the_cascade(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise ValueError(f"{arguments} {options}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Cascade, "from_pretrained", load)
    assert main([*command, "--device", "cpu", "--dtype", "bfloat16", "--compile", "--expert-residency", "stream"]) == 1
    said = "('toybox', 'cpu', 'stream') {'dtype': 'bfloat16', 'compile': True}"
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [["sample", PROMPT], ["evaluate"], ["studio", "--port", "0"]])
def test_cuda_without_a_gpu_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--device", "cuda"]) == 1
    assert "device is 'cuda', but this machine has only cpu" in capsys.readouterr().err


WITHOUT_TYPE_CHECKS = """
import sys

import torch
from torch import nn

from ediffi.diffusion.experts import expert_tree
from ediffi.pipeline.attention_maps import attention_maps
from ediffi.pipeline import conditioning
from ediffi.pipeline.cascade import Cascade

try:
    Cascade.from_pretrained(sys.argv[1], expert_residency="cpu")
except ValueError as error:
    assert str(error) == "expert_residency is 'cpu'; it must be resident or stream", error

modes, original = [], nn.Module.compile

def compile(module, mode):  # inductor takes minutes; the traced graph, run as it is, shows the same wiring
    modes.append(mode)
    original(module, backend="eager", fullgraph=True)

nn.Module.compile = compile
plain, compiled = (Cascade.from_pretrained(sys.argv[1], compile=on) for on in (False, True))
assert modes == ["default"] * sum(len(expert_tree(stage.denoiser).denoisers) for stage in compiled.stages), modes
torch._dynamo.utils.counters.clear()
options = {"seed": 3, "num_inference_steps": 3}
made, wanted = (cascade("a red circle", **options) for cascade in (compiled, plain))
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= len(modes)
assert (made.settings["compile"], wanted.settings["compile"]) == (True, False)
for name, images in wanted.stages.items():
    torch.testing.assert_close(made.stages[name], images, atol=1e-4, rtol=1e-4)
watched, expected = (attention_maps(cascade, "a red circle").maps for cascade in (compiled, plain))
torch.testing.assert_close(watched, expected, atol=1e-4, rtol=1e-4)
"""


@pytest.mark.slow
def test_a_compiled_cascade_calls_its_compiled_networks(model_folder: Path) -> None:
    # in a process of its own: dynamo cannot trace the type checks of the tests
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TYPE_CHECKS, str(model_folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Hungry(nn.Module):
    """A denoiser that finds no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, *_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


def test_a_stage_without_memory_says_which_options_help(model_folder: Path) -> None:
    cascade = Cascade.from_pretrained(model_folder)
    stage = cascade.stages[0]
    cascade.stages[0] = dataclasses.replace(stage, denoiser=Hungry())
    batch = "a batch of fewer than 4 images (batch_size, or num_images of one prompt)"
    help = f"less is needed with dtype bfloat16 or {batch} (CUDA out of memory)"
    with pytest.raises(ValueError, match=re.escape(f"stage {stage.name!r} ran out of GPU memory; {help}")):
        cascade(PROMPT, num_images_per_prompt=4)
    cascade.stages[0] = dataclasses.replace(stage, denoiser=AutocastDenoiser(Hungry(), torch.bfloat16))
    with pytest.raises(ValueError, match="no option lowers it further"):
        cascade(PROMPT)


def test_an_encoder_without_memory_says_what_helps_if_anything_does(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = Cascade.from_pretrained(model_folder)
    monkeypatch.setattr(conditioning, "encode_prompts", Hungry().forward)
    with pytest.raises(ValueError, match="an encoder ran out of GPU memory; no option lowers it further"):
        cascade(PROMPT, num_images_per_prompt=2)
    with pytest.raises(ValueError, match=r"less is needed with a batch of fewer than 2 prompts \(batch_size\)"):
        cascade([PROMPT, "another"])


def test_embeddings_of_an_encoder_in_bfloat16_reach_the_networks_in_float32(model_folder: Path) -> None:
    cascade = Cascade.from_pretrained(model_folder)
    t5 = cascade.encoders["t5"]
    assert isinstance(t5, nn.Module)
    t5.bfloat16()
    assert {source.tokens.dtype for source in cascade.encode([PROMPT]).sources.values()} == {torch.float32}
