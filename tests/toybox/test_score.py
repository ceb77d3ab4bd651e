"""Scores: a cascade that renders the truth is right in everything, one that renders another scene is not."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.hub.models import SHIPPED
from ediffi.io.images import to_images
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.result import Images
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.toybox.score import against_bicubic, judge, psnr, write


class Renderer(Cascade):
    """Generates the renderer's image of the scene `shift` prompts later."""

    def __init__(self, shift: int) -> None:
        denoiser = torch.nn.Linear(1, 1)
        super().__init__(
            "renderer", {}, [Stage("base", 16, denoiser, Sampling()), Stage("sr64", 64, denoiser, Sampling())]
        )
        self.scenes = {caption.text: index for index, (_, caption) in enumerate(prompts(0, 30))}
        self.shift = shift

    def __call__(self, prompt: str | Sequence[str], **settings: object) -> Images:
        chosen = [prompts(0, 30)[(self.scenes[text] + self.shift) % 30][0] for text in prompt]
        pixels = torch.from_numpy(np.stack([render(scene, 64) for scene in chosen])).permute(0, 3, 1, 2)
        tensor = pixels.float() / 127.5 - 1
        stages = {"base": torch.zeros(len(chosen), 3, 16, 16), "sr64": tensor}
        return Images(to_images(tensor), stages, {"stages": {}})


def test_the_truth_is_right_in_everything(tmp_path: Path) -> None:
    results, shown = judge(Renderer(0), count=30, batch_size=7)
    assert set(results["accuracy"]) == {"sr64"}, "the oracle does not read 16²"
    assert results["accuracy"]["sr64"]["everything"] == 1
    assert results["by_objects"] == {"1": 1.0, "2": 1.0, "3": 1.0}
    write(tmp_path, results, shown)
    assert json.loads((tmp_path / "results.json").read_text())["count"] == 30
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "sheet.png"}


def test_another_scene_is_wrong() -> None:
    results, _ = judge(Renderer(3), count=30)
    fields = results["accuracy"]["sr64"]
    assert fields["count"] == 1, "three prompts later, the number of objects is the same"
    assert fields["everything"] < 0.1
    assert fields["colour"] < 0.5


def test_a_model_whose_images_are_too_small_for_the_oracle_is_refused() -> None:
    with pytest.raises(ValueError, match="ends at 16 pixels"):
        judge(Renderer(0).up_to("base"), count=1)


def test_psnr_is_what_its_formula_says() -> None:
    truth = torch.zeros(2, 3, 4, 4)
    noisy = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 0.02)])
    torch.testing.assert_close(psnr(noisy, truth), torch.tensor([20.0, 40.0]))


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_the_shipped_super_resolution_beats_bicubic() -> None:
    results = against_bicubic(Cascade.from_pretrained("toybox"), count=2)
    assert set(results) == {"sr64", "sr256"}
    for values in results.values():
        assert values["stage"] > values["bicubic"]


def test_the_shipped_model_follows_prompts() -> None:
    results, _ = judge(Cascade.from_pretrained("toybox").up_to("sr64"), count=12, seed=5)
    assert results["accuracy"]["sr64"]["everything"] >= 0.6
    assert results["accuracy"]["sr64"]["count"] >= 0.8


def test_the_shipped_model_is_small() -> None:
    size = sum(path.stat().st_size for path in (SHIPPED / "toybox").rglob("*") if path.is_file())
    assert size <= 24 * 2**20
