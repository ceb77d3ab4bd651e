"""Seeing inside: watching changes nothing, what is seen adds up, and the pictures are written."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ediffi.cli import main
from ediffi.pipeline.attention_maps import NULL, attention_maps
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.style import Switch

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def cascade(model_folder: Path) -> Cascade:
    return Cascade.from_pretrained(model_folder)


def test_attention_is_shared_out_among_all_tokens(cascade: Cascade) -> None:
    watched = attention_maps(cascade, PROMPT, SamplingOptions(seed=2))
    words = PROMPT.split()
    read = [token.text for token in watched.tokens]
    assert read == [NULL, "<s>", *words, "</s>", *words, "</s>"]
    assert [token.source for token in watched.tokens].count("t5") == len(words) + 1
    assert watched.maps.shape == (2, len(read), 8, 8)
    torch.testing.assert_close(watched.maps.sum(1), torch.ones(2, 8, 8))
    assert watched.sigmas == sorted(watched.sigmas, reverse=True)
    shares = watched.shares()
    assert list(shares) == [NULL, "clip_text", "t5"]
    torch.testing.assert_close(torch.stack(list(shares.values())).sum(0), torch.ones(2))
    torch.testing.assert_close(watched.of("RED"), watched.maps[:, [3, 12]].sum(1))
    with pytest.raises(ValueError, match="no token is 'green'"):
        watched.of("green")


def test_watching_changes_nothing_and_leaves_nothing(cascade: Cascade) -> None:
    before = cascade(PROMPT, seed=2).stages["base"]
    attention_maps(cascade, PROMPT, SamplingOptions(seed=2))
    assert torch.equal(before, cascade(PROMPT, seed=2).stages["base"])
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for s in cascade.stages for m in s.denoiser.modules()]
    assert sum(hooks) == 0


def test_each_expert_and_streamed_ones_are_watched(model_folder: Path) -> None:
    streamed = Cascade.from_pretrained(model_folder, expert_residency="stream")
    assert torch.equal(
        attention_maps(streamed, PROMPT).maps, attention_maps(Cascade.from_pretrained(model_folder), PROMPT).maps
    )


def test_a_super_resolution_stage_can_be_watched(cascade: Cascade) -> None:
    assert attention_maps(cascade, PROMPT, stage="sr64").maps.shape[0] == 2
    with pytest.raises(ValueError, match="no stage 'sr512'; there are base, sr64"):
        attention_maps(cascade, PROMPT, stage="sr512")


def test_switching_runs_from_one_prompt_to_the_other(cascade: Cascade) -> None:
    first, last = (cascade(PROMPT, seed=1, switch=Switch("a green cross", at)).images[0] for at in (1.0, 0.0))
    assert first == cascade(PROMPT, seed=1).images[0]
    assert last == cascade("a green cross", seed=1).images[0]
    with pytest.raises(ValueError, match=r"switch at must be in \[0, 1\]"):
        Switch("a green cross", 2.0)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_the_pictures_are_written(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(model_folder)]
    assert main(["analyze", "attention", PROMPT, "-o", str(tmp_path / "seen"), *model, "--words", "red, null"]) == 0
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"overlays.png", "curve.png", "attention.json"}
    content = json.loads((tmp_path / "seen" / "attention.json").read_text())
    assert content["shares"].keys() == {"null", "clip_text", "t5"}
    assert "at the noisiest call" in capsys.readouterr().out
    strip = tmp_path / "strip.png"
    assert main(["analyze", "prompt-switch", PROMPT, "a cross", "-o", str(strip), *model, "--shares", "[0,1]"]) == 0
    with Image.open(strip) as image:
        assert image.width > image.height
    assert main(["analyze", "attention", PROMPT, *model, "--words", "zebra", "-o", str(tmp_path / "x")]) == 1
    assert "no token is 'zebra'" in capsys.readouterr().err
