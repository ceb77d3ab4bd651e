"""Measures of paint and style: right for a cascade that renders what it should, wrong for one that does not."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ediffi.evaluation.datasets.toybox import STYLES, Scene, held_out, render
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.stage import Sampling, Stage
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, Embedding
from ediffi.toybox.controls import Case, judge, judge_paint, judge_style, painted_cases, styled_cases


class Renderer(Cascade):
    """Generates the renderer's images of scenes, in their order, whatever the prompt."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        super().__init__("renderer", {}, [Stage("base", 64, torch.nn.Linear(1, 1), Sampling())])
        self.scenes = list(scenes)

    def encode(self, prompts: Sequence[str], style: Any = None, regions: Any = ()) -> Conditioning:
        count = len(prompts)
        return Conditioning({"t5": Embedding(torch.zeros(count, 1, 4), torch.ones(count, 1, dtype=torch.bool))})

    def sample(self, cond: Conditioning, randomness: Philox, *_: Any, **__: Any) -> dict[str, Any]:
        scenes, self.scenes = self.scenes[: len(randomness)], self.scenes[len(randomness) :]
        pixels = torch.from_numpy(np.stack([render(scene, 64) for scene in scenes])).permute(0, 3, 1, 2)
        return {"base": pixels.float() / 127.5 - 1}


PAINTED, STYLED = painted_cases(24, seed=1), styled_cases(27, seed=1)


def styled(case: Case) -> Scene:
    assert case.reference is not None
    return replace(case.scene, style=case.reference.style)


def swapped(case: Case) -> Scene:
    """The scene with its objects in reversed order, each in the middle of its slot."""
    scene = case.scene
    return replace(scene, objects=scene.objects[::-1], offsets=((0.0, 0.0),) * len(scene.objects))


def test_cases_name_no_layout_or_style_and_are_held_out() -> None:
    assert [len(case.scene.objects) for case in PAINTED[:4]] == [2, 3, 2, 3]
    assert not any("layout" in case.caption.named for case in PAINTED)
    assert not any("style" in case.caption.named for case in STYLED)
    assert {(len(case.scene.objects), styled(case).style) for case in STYLED} == {
        (n, s) for n in (1, 2, 3) for s in STYLES
    }
    assert all(held_out(case.scene) for case in PAINTED + STYLED)
    assert not any(held_out(case.scene) for case in painted_cases(4, split="train"))


def test_objects_in_their_regions_count_and_others_do_not() -> None:
    right = judge_paint(Renderer([case.scene for case in PAINTED]), PAINTED, 0.3)
    assert (right["inside"], right["everything"], len(right["images"])) == (1.0, 1.0, 24)
    wrong = judge_paint(Renderer([swapped(case) for case in PAINTED]), PAINTED, 0.3)
    # All objects of two are in the wrong place; of three the middle one stays.
    assert wrong["inside"] == pytest.approx(12 / 60)
    assert wrong["everything"] == 1.0, "the captions do not name the layout"


def test_the_style_is_that_of_the_style_image() -> None:
    assert judge_style(Renderer([styled(case) for case in STYLED]), STYLED, 1.0)["style"] == 1.0
    ignored = judge_style(Renderer([case.scene for case in STYLED]), STYLED, 1.0)["style"]
    assert ignored == np.mean([case.scene.style == styled(case).style for case in STYLED]) < 1


def test_every_strength_is_measured(tmp_path: Path) -> None:
    painted, styles = painted_cases(8), styled_cases(8)
    scenes = [*map(swapped, painted), *(case.scene for case in painted), *(case.scene for case in styles)]
    scenes += map(styled, styles)
    results = judge(Renderer(scenes), 8, 0, [0.3], [1.0], tmp_path / "made")
    assert results == json.loads((tmp_path / "made" / "controls.json").read_text())
    assert results["paint"]["0"]["inside"] < results["paint"]["0.3"]["inside"] == 1.0
    assert results["style"]["none"]["style"] < results["style"]["1"]["style"] == 1.0
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"controls.json", "paint.png", "style.png"}
