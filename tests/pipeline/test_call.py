"""The Python call as users of diffusers know it: every row of the table in docs/sampling.md, by exact values."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi import Cascade, Edit, Region, SamplingOptions, Style, Switch, attention_maps, samplers
from ediffi.cli import main
from ediffi.io.png import settings_of
from ediffi.pipeline.stage import Stage
from ediffi.registry.random import Philox, randn
from ediffi.registry.types import SamplerState
from tests.pipeline.test_options import BASE, Pixels, Words, first, gray, tokens
from tests.pipeline.test_stage import Recorder

TABLE = Path(__file__).parents[2] / "docs" / "sampling.md"
LEFT = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]


def recorded() -> Cascade:
    stages = [Stage("base", 8, Recorder(), BASE), Stage("sr16", 16, Recorder(), BASE, 0.0)]
    return Cascade("recorded", {"t5": Words(), "clip_image": Pixels()}, stages)


@pytest.fixture
def cascade() -> Cascade:
    return recorded()


def start(cascade: Cascade, **options: Any) -> torch.Tensor:
    """The first state of the base stage."""
    cascade.stages[0].denoiser.calls.clear()
    cascade(**{"prompt": "a", **options})
    return first(cascade)[0]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.equal(one, other))


# A row of the table each


def prompt(cascade: Cascade) -> None:
    assert len(cascade("a")) == 1
    assert len(cascade(["a", "bb"])) == 2
    assert tokens(first(cascade)[2]) == [1]
    for wrong, message in ((None, "give a prompt, or cond"), ([], "prompt is an empty list")):
        with pytest.raises(ValueError, match=message):
            cascade(wrong)


def negative_prompt(cascade: Cascade) -> None:
    cascade(["a", "bb"], negative_prompt=["ccc", None], guidance_scale=3.0)
    _, _, cond = first(cascade)
    assert tokens(cond) == [3, 0, 1, 2]
    assert cond.sources["t5"].mask[:2, 0].tolist() == [True, False], "None is the null condition"
    with pytest.raises(ValueError, match="negative_prompt has 2 values for 1 prompts; give 1, or one for each"):
        cascade("a", negative_prompt=["b", "c"])
    with pytest.raises(ValueError, match="the negative prompt is empty; leave it out, or give None"):
        cascade("a", negative_prompt="")


def num_images_per_prompt(cascade: Cascade) -> None:
    cascade(["a", "bb"], num_images_per_prompt=2)
    assert tokens(first(cascade)[2]) == [1, 1, 2, 2]


def num_inference_steps(cascade: Cascade) -> None:
    cascade("a", num_inference_steps=[3, 2])
    assert [len(stage.denoiser.calls) for stage in cascade.stages] == [3, 2]


def sigmas(cascade: Cascade) -> None:
    made = cascade("a", sigmas=[5.0, 2.0, 1.0])
    assert [float(sigma) for _, sigma, _ in cascade.stages[0].denoiser.calls] == [5.0, 2.0, 1.0]
    assert made.settings["stages"]["base"]["sigmas"] == [5.0, 2.0, 1.0, 0.0]
    assert made.settings["stages"]["base"]["nfe"] == 3
    again = cascade("a", sigmas=[None, [3.0, 0.0]], sampler="heun").settings["stages"]
    assert again["sr16"]["sigmas"] == [3.0, 0.0]
    assert "sigmas" not in again["base"]
    grid = BASE.sigmas().tolist()
    assert same(
        cascade("a", sigmas=torch.tensor(grid, dtype=torch.float64)).stages["base"], cascade("a").stages["base"]
    )
    for wrong, message in (
        ([1.0, 2.0], "must decrease strictly"),
        ([float("inf"), 0.0], "must decrease strictly"),
        ([[1.0], [1.0], [1.0]], "sigmas has 3 values; give 1, or 2"),
        ([], "sigmas is an empty list"),
    ):
        with pytest.raises(ValueError, match=message):
            cascade("a", sigmas=wrong)
    with pytest.raises(ValueError, match="give it, or num_inference_steps"):
        cascade("a", sigmas=[1.0], num_inference_steps=1)


def guidance_scale(cascade: Cascade) -> None:
    def terms(**options: Any) -> list[int]:
        cascade.stages[0].denoiser.calls.clear()
        settings.append(cascade("a", negative_prompt="bb", **options).settings["stages"]["base"]["guidance_scale"])
        return [len(x) for x, _, _ in cascade.stages[0].denoiser.calls]

    settings: list[Any] = []
    assert terms(guidance_scale=2.0) == [2, 2, 2, 2]
    assert terms(guidance_scale=lambda sigma: 3.0 if sigma > 1 else 1.0) == [2, 2, 1, 1]
    assert terms(guidance_scale=[(10.0, 4.0), (2.0, 1.0)]) == [2, 2, 1, 1]
    assert terms(guidance_scale=[[(10.0, 4.0), (2.0, 1.0)], 2.0]) == [2, 2, 1, 1]
    assert terms(guidance_scale=np.array([2.0, 1.0])) == [2, 2, 2, 2]
    grid = [sigma for sigma in BASE.sigmas().tolist() if sigma]
    assert settings[1] == [[sigma, 3.0 if sigma > 1 else 1.0] for sigma in grid]
    assert settings[2][0] == [grid[0], pytest.approx(4.0)]
    assert settings[3] == json.loads(json.dumps(settings[2]))
    flat, plain = cascade("a", guidance_scale=[(1.0, 3.0)]), cascade("a", guidance_scale=3.0)
    assert same(flat.stages["base"], plain.stages["base"])
    for wrong, message in (
        (lambda sigma: float("nan"), r"guidance_scale at sigma 10 must be at least 0 and finite, got nan"),
        ([(0.0, 1.0)], "pairs of different sigmas above 0"),
        (float("inf"), "guidance_scale must be at least 0 and finite"),
    ):
        with pytest.raises(ValueError, match=message):
            cascade("a", guidance_scale=wrong)


def eta(cascade: Cascade) -> None:
    churned = cascade("a", sampler=samplers.create("euler", s_churn=20.0))
    assert churned.settings["stages"]["base"]["sampler"].startswith("Solver(method=RungeKutta(")
    cascade.stages[0].denoiser.calls.clear()
    made = cascade("a", sampler=["heun", samplers.create("deis")])
    assert (made.settings["stages"]["base"]["nfe"], made.settings["stages"]["sr16"]["nfe"]) == (7, 4)
    assert len(cascade.stages[0].denoiser.calls) == 7
    with pytest.raises(ValueError, match="sampler has 3 values; give 1, or 2"):
        cascade("a", sampler=["heun"] * 3)


def generator(cascade: Cascade) -> None:
    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    one = start(cascade, generator=drawn())
    assert same(one, start(cascade, generator=drawn()))
    going = drawn()
    assert not same(start(cascade, generator=going), start(cascade, generator=going)), "a generator has a state"
    assert same(start(cascade, generator=7), start(cascade, seed=7))
    four = start(cascade, prompt=["a", "bb"], num_images_per_prompt=2, generator=[7, 8, 9, 7])
    alone = torch.cat([start(cascade, seed=seed) for seed in (7, 8, 9, 7)])
    assert same(four, alone)
    assert same(start(cascade, num_images_per_prompt=2, generator=[drawn(), drawn()])[1:], one)
    free = [cascade("a", seed=None).settings["seed"] for _ in range(2)]
    assert free[0] != free[1]
    with pytest.raises(ValueError, match="seed has 2 values for 1 images"):
        cascade("a", seed=[1, 2])
    with pytest.raises(ValueError, match="generator and seed say the same"):
        cascade("a", seed=1, generator=2)


def latents(cascade: Cascade) -> None:
    made = cascade("a", seed=3)
    assert same(made.noise["base"], randn((1, 3, 8, 8), Philox(3, [0]).of("base/start")))
    again = cascade("a", seed=9, noise=made.noise)
    assert same(start(cascade, noise=made.noise["base"]), made.noise["base"] * 10.0)
    assert same(again.noise["sr16"], made.noise["sr16"])
    assert len(again.settings["noise"]["base"]["sha256"]) == 64
    for wrong, message in (
        (torch.zeros(1, 3, 4, 4), r"noise of stage 'base' must be finite, of shape \[1, 3, 8, 8\]"),
        (torch.full((1, 3, 8, 8), torch.nan), "must be finite"),
        ({"sr99": torch.zeros(1, 3, 8, 8)}, "noise is for stages 'sr99'"),
    ):
        with pytest.raises(ValueError, match=message):
            cascade("a", noise=wrong)


def prompt_embeds(cascade: Cascade) -> None:
    made = cascade(cond=cascade.encode(["a", "bb"]), num_images_per_prompt=2)
    assert tokens(first(cascade)[2]) == [1, 1, 2, 2]
    assert made.settings["prompt"] is None
    assert same(made.stages["base"], cascade(["a", "bb"], num_images_per_prompt=2).stages["base"])
    with pytest.raises(ValueError, match="cond has 2 rows; it must have one for each of 3 prompts, or images"):
        cascade(["a"] * 3, cond=cascade.encode(["a", "bb"]))


def negative_prompt_embeds(cascade: Cascade) -> None:
    cascade("a", negative_cond=cascade.encode(["bbb"]), num_images_per_prompt=2, guidance_scale=2.0)
    assert tokens(first(cascade)[2]) == [3, 3, 1, 1]
    with pytest.raises(ValueError, match="negative_prompt and negative_cond say the same"):
        cascade("a", negative_cond=cascade.encode(["bbb"]), negative_prompt="b")


def ip_adapter_image(cascade: Cascade, tmp_path: Path) -> None:
    gray(10, 255).save(tmp_path / "white.png")
    for style in (gray(10, 255), tmp_path / "white.png", np.ones((4, 4, 3)), torch.ones(3, 4, 4), Style(gray(10, 255))):
        cascade.stages[0].denoiser.calls.clear()
        cascade("a", style=style)
        assert tokens(first(cascade)[2], "clip_image") == [pytest.approx(1.0)]
    cascade.stages[0].denoiser.calls.clear()
    cascade(["a", "bb", "c"], style=[gray(4, 255), None, gray(4, 0)])
    source = first(cascade)[2].sources["clip_image"]
    assert source.tokens[:, 0, 0].tolist() == [pytest.approx(1.0), 0.0, pytest.approx(-1.0)]
    assert source.mask[:, 0].tolist() == [True, False, True]
    with pytest.raises(ValueError, match="must have one scale"):
        cascade(["a", "b"], style=[Style(gray(4, 0)), Style(gray(4, 0), 2.0)])


def output_type(cascade: Cascade) -> None:
    pil, array, tensor = (cascade("a", output_type=kind) for kind in ("pil", "np", "pt"))
    assert isinstance(pil[0], Image.Image)
    assert (array.images.shape, tuple(tensor.images.shape)) == ((1, 16, 16, 3), (1, 3, 16, 16))
    assert 0 <= array.images.min() <= array.images.max() <= 1
    assert np.array_equal((array[0] * 255).round().astype(np.uint8), np.asarray(pil[0]))
    assert np.array_equal(array.images, tensor.images.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(array.pil()[0]), np.asarray(pil[0]))


def callback_on_step_end(cascade: Cascade) -> None:
    seen = []

    def look(given: Cascade, step: int, sigma: float, state: dict[str, Any]) -> dict[str, Any]:
        seen.append((given is cascade, state["stage"], step, sigma))
        return state

    plain = cascade("a")
    looked = cascade("a", callback_on_step_end=look)
    assert same(plain.stages["sr16"], looked.stages["sr16"]), "what is returned unchanged changes nothing"
    assert [(one[0], one[1], one[2]) for one in seen] == [(True, n, k) for n in ("base", "sr16") for k in range(4)]
    assert [one[3] for one in seen[:4]] == BASE.sigmas().tolist()[:-1]
    cascade.stages[0].denoiser.calls.clear()
    cascade("a", callback_on_step_end=lambda *given: {"x": torch.full_like(given[3]["x"], 2.0)})
    assert all((x == 2).all() for x, _, _ in cascade.stages[0].denoiser.calls[1:])
    stopped = cascade("a", callback_on_step_end=lambda *given: {"stop": given[1] == 1})
    assert list(stopped.stages) == ["base"]
    assert stopped[0].size == (8, 8)
    assert (stopped.stages["base"] == 0.5).all(), "the estimate of the step"
    for wrong, message in (
        ({"latents": 1}, "may return x and stop"),
        ({"x": 1}, "return x as a tensor of shape"),
        ([1], r"must return a mapping with x or stop, or None; got \[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            cascade("a", callback_on_step_end=lambda *_, returned=wrong: returned)


TAKEN: dict[str, Callable[..., None]] = {
    test.__name__: test
    for test in (
        *(prompt, negative_prompt, num_images_per_prompt, num_inference_steps, sigmas, guidance_scale, generator),
        *(latents, prompt_embeds, negative_prompt_embeds, ip_adapter_image, output_type, callback_on_step_end),
    )
}


def rows() -> dict[str, tuple[bool, bool, str]]:
    """The table: whether the two pipelines of diffusers have an argument, and what there is here."""
    lines = re.findall(r"^\| `(\w+)` \| (yes|no) \| (yes|no) \| (.*) \|$", TABLE.read_text(), re.MULTILINE)
    return {name: (one == "yes", two == "yes", here) for name, one, two, here in lines}


@pytest.mark.parametrize("name", rows())
def test_a_row_of_the_table(name: str, cascade: Cascade, tmp_path: Path) -> None:
    here = rows()[name][2]
    if here.startswith("not taken"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            Cascade.__call__(cascade, "a", **{name: 1})
        assert name not in TAKEN
    else:
        test = TAKEN[name]
        test(*[cascade, tmp_path][: len(inspect.signature(test).parameters)])
    if name == "eta":
        eta(cascade)


def test_the_table_has_the_arguments_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    if not diffusers.__version__.startswith("0.42."):
        pytest.skip("the table is of diffusers 0.42")
    pipelines = (diffusers.IFPipeline, diffusers.StableDiffusion3Pipeline)
    have = [set(inspect.signature(one.__call__).parameters) - {"self"} for one in pipelines]
    assert {name: row[:2] for name, row in rows().items()} == {
        name: (name in have[0], name in have[1]) for name in have[0] | have[1]
    }


# What diffusers' text-to-image pipelines do not have


def test_an_image_to_start_from(cascade: Cascade, tmp_path: Path) -> None:
    image, mask = gray(16, 200), np.zeros((16, 16), bool)
    mask[:8] = True
    image.save(tmp_path / "in.png")
    wanted = cascade("a", edit=Edit(image, 0.5, mask)).stages["sr16"]
    assert same(cascade("a", image=str(tmp_path / "in.png"), mask_image=mask, strength=0.5).stages["sr16"], wanted)
    two = cascade(["a", "a"], image=[image, gray(16, 0)], mask_image=[mask, None], strength=0.5, seed=[0, 0])
    assert same(two.stages["sr16"][:1], wanted)
    assert not same(two.stages["sr16"][1:], wanted)
    for wrong, message in (
        ({"mask_image": mask}, "mask_image and strength belong to image"),
        ({"image": image, "edit": Edit(image)}, "image and edit say the same"),
        ({"image": [image, image], "mask_image": [mask]}, "mask_image has 1 masks for 2 images"),
        ({"image": [image, image]}, "edit has 2 values for 1 prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            cascade("a", **wrong)


def test_an_image_that_comes_back_smaller_is_told(cascade: Cascade, caplog: pytest.LogCaptureFixture) -> None:
    cascade("a", image=gray(32, 9), strength=0.5)
    assert caplog.messages == ["the image is 32x32; the model makes images of 16x16"]
    caplog.clear()
    side = cascade.stages[0].resolution
    cascade("a", low_res=gray(side, 9))
    assert caplog.messages == []
    cascade("a", low_res=gray(2 * side, 9), first_stage="sr16")
    told = f"the image is {2 * side}x{2 * side}; sr16 enlarges images of {side}x{side}, so it is made smaller first"
    assert caplog.messages == [told]


def test_each_prompt_has_its_own_layout_and_second_prompt(cascade: Cascade, tmp_path: Path) -> None:
    region = Region("bb", LEFT)
    together = cascade(
        ["a bb", "c"], paint=[[region], None], paint_weight=1.0, switch=[Switch("d", 0.5), Switch("ee", 0.5)]
    )
    calls = cascade.stages[0].denoiser.calls
    assert calls[0][2].paint.tokens["t5"][:, 0, 1].tolist() == [1.0, 0.0]
    assert calls[0][2].paint.strength[1] == 0
    assert tokens(calls[-1][2]) == [1, 2]
    assert len(together) == 2
    (tmp_path / "layout.json").write_text(json.dumps([{"phrase": "bb", "mask": LEFT}]))
    cascade("a bb", paint=tmp_path / "layout.json", paint_weight=1.0)
    with pytest.raises(ValueError, match="paint_weight is 0 in every stage"):
        cascade("a bb", paint=region)
    for wrong in ({"bb": region.mask}, [("bb", region.mask)], [5]):
        with pytest.raises(ValueError, match="paint must be regions, such as Region"):
            cascade("a bb", paint=wrong)


def test_images_are_a_sequence_that_shows_and_saves_itself(cascade: Cascade, tmp_path: Path, capsys) -> None:
    made = cascade(["a <b>", "bb"], seed=3)
    one, two = made
    assert (len(made), made[0], made[-1], made[:1]) == (2, one, two, [one])
    assert repr(made) == "<2 images of 16x16, 'a <b>', seed 3>"
    page = made._repr_html_()
    assert page.count("data:image/png;base64,") == 2
    assert "a &lt;b&gt;" in page
    assert made.save(tmp_path / "x.png") == [tmp_path / "x-0.png", tmp_path / "x-1.png"]
    assert settings_of(tmp_path / "x-1.png") == json.loads(json.dumps({**made.settings, "index": 1}))
    assert main(["inspect", str(tmp_path / "x-0.png")]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 3
    with pytest.raises(ValueError, match=r"must end in \.png"):
        made.save(tmp_path / "x.jpg")


def test_a_cascade_shows_what_it_is_made_of(cascade: Cascade) -> None:
    assert repr(cascade).splitlines() == [
        "Cascade 'recorded' on cpu, float32",
        "  base        8x8, 0.0M parameters, euler 4 steps, guidance 1",
        "  sr16        16x16, 0.0M parameters, euler 4 steps, guidance 1",
        "  t5          Words",
        "  clip_image  Pixels",
    ]


def test_the_progress_bar_can_be_switched_off(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("ediffi.io.progress.Progress.display", lambda self, *_, **__: shown.append(self.n))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    cascade("a", progress_bar=False)
    assert shown == []
    cascade("a")
    assert shown


def test_attention_of_a_call_with_everything(model_folder: Path) -> None:
    cascade = Cascade.from_pretrained(model_folder)
    options = SamplingOptions(
        guidance_scale=[(1.0, 2.0)], sampler="heun", paint=(Region("red circle", LEFT),), paint_weight=2.0
    )
    watched = attention_maps(cascade, "a red circle", options)
    assert len(watched.sigmas) == 3
    torch.testing.assert_close(watched.maps.sum(1), torch.ones_like(watched.maps[:, 0]))


def test_progress_is_called_with_the_stage(cascade: Cascade) -> None:
    seen: list[str] = []

    def progress(stage: str, state: SamplerState) -> None:
        seen.append(stage)

    cascade("a", progress=progress)
    assert seen == ["base"] * 4 + ["sr16"] * 4


WRONG = {
    "num_images_per_prompt='2'": "num_images_per_prompt must be an integer, from 1 to 100000, got '2'",
    "num_images_per_prompt=True": "num_images_per_prompt must be an integer",
    "num_inference_steps=2.5": "num_inference_steps must be an integer, from 1 to 10000, got 2.5",
    "guidance_scale='3'": "guidance_scale must be a number, at least 0 and finite (1 is off), got '3'",
    "guidance_interval=3": "guidance_interval must be two rising noise levels, at least 0, got 3",
    "seed='a'": "seed must be an integer, at least 0, got 'a'",
    "seed=1.5": "seed must be an integer, at least 0, got 1.5",
    "first_index=-1": "first_index must be at least 0, got -1",
    "sampler=3": "sampler must be a name, or an object with nfe(num_steps), got 3",
    "sampler=print": "sampler must be a name, or an object with nfe(num_steps)",
    "negative_prompt=5": "negative_prompt must be a str, or one for each prompt, got 5",
    "style=3": "style must be a Style, or one for each prompt, got 3",
    "paint=['a']": "paint must be regions, or a list of them for each prompt, got ('a',)",
    "sigmas='a'": "sigmas must be decreasing noise levels, or a list of them per stage, got 'a'",
    "edit='x.png'": "edit must be a Edit, or one for each prompt, got 'x.png'",
}


def test_kinds_are_checked_where_they_enter() -> None:
    """In a process of its own: here, the tests check the types of all calls."""
    code = "import json\nfrom ediffi import SamplingOptions\nfound = {}\n" + "".join(
        f"try:\n    SamplingOptions({words})\nexcept ValueError as error:\n    found[{words!r}] = str(error)\n"
        for words in WRONG
    )
    code += "import numpy as np\nnative = SamplingOptions(seed=np.int64(3), guidance_scale=np.float32(2))\n"
    code += "found['numpy'] = repr((native.seed, native.guidance_scale))\n"
    done = subprocess.run([sys.executable, "-c", code + "print(json.dumps(found))"], capture_output=True, text=True)
    assert not done.stderr
    found = json.loads(done.stdout)
    assert found["numpy"] == "(3, 2.0)"
    assert {words: found[words].startswith(message) for words, message in WRONG.items()} == dict.fromkeys(
        WRONG, True
    ), found
