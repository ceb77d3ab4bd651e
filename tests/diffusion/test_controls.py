"""Paint, style, weights, switching and many prompts, through a whole cascade of the real classes."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ediffi.cli import main
from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region, color_map, polygon, read_layout
from ediffi.diffusion.paint import paint, places
from ediffi.io.images import open_image
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.conditioning import encode_prompts, text_encoders
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.style import Style, Switch
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning

PROMPT = "a red circle and a blue square and a red circle"
LEFT, RIGHT = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]], [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]


@pytest.fixture(scope="module")
def cascade(model_folder: Path) -> Cascade:
    return Cascade.from_pretrained(model_folder)


def layout(weight: float = 1.0) -> list[Region]:
    return [Region("red circle", polygon(LEFT), weight), Region("blue square", polygon(RIGHT), weight)]


def picture(seed: int = 0, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


# Paint


def test_paint_with_weight_zero_is_plain_sampling_bit_for_bit(cascade: Cascade) -> None:
    plain = cascade(PROMPT, seed=2).stages
    for options in ({"paint_weight": [0.0, 1e-9]}, {"paint_weight": 1.0, "paint": layout(0.0)}):
        painted = cascade(PROMPT, seed=2, **{"paint": layout(), **options}).stages
        same = [torch.equal(plain[name], painted[name]) for name in plain]
        assert same[0] or options["paint_weight"] == 1.0
    weighted = cascade.encode([PROMPT], regions=layout())
    stage = cascade.stages[0]
    unpainted = dataclasses.replace(stage.sampling, paint_weight=0.0)
    with_paint = stage(weighted, Philox(2, [0]), sampling=unpainted)
    assert torch.equal(with_paint, plain["base"])


def test_paint_changes_the_picture_and_its_weight_matters(cascade: Cascade) -> None:
    plain = cascade(PROMPT, seed=2).stages["base"]
    pictures = [cascade(PROMPT, seed=2, paint=layout(), paint_weight=w).stages["base"] for w in (1.0, 5.0)]
    assert not torch.allclose(pictures[0], plain, atol=1e-4)
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-4)
    half = cascade(PROMPT, seed=2, paint=layout(0.2), paint_weight=5.0).stages["base"]
    torch.testing.assert_close(half, pictures[0], atol=1e-4, rtol=1e-3)


def test_super_resolution_is_painted_where_asked(cascade: Cascade) -> None:
    base_only, both = (cascade(PROMPT, paint=layout(), paint_weight=w).stages for w in (1.0, [1.0, 4.0]))
    assert torch.equal(base_only["base"], both["base"])
    assert not torch.equal(base_only["sr64"], both["sr64"])


def test_a_painted_batch_equals_its_single_runs(cascade: Cascade) -> None:
    together = cascade(PROMPT, num_images_per_prompt=3, seed=5, paint=layout(), paint_weight=2.0)
    alone = [cascade(PROMPT, seed=5, first_index=k, paint=layout(), paint_weight=2.0) for k in range(3)]
    for name, tensor in together.stages.items():
        single = torch.cat([one.stages[name] for one in alone])
        torch.testing.assert_close(tensor, single, atol=1e-4, rtol=1e-4)


def test_one_batch_may_hold_different_layouts_and_none(cascade: Cascade) -> None:
    other = [Region("green cross", polygon(RIGHT))]
    conds = [
        cascade.encode([PROMPT], regions=layout()),
        cascade.encode(["a green cross, striped, on a pink background"], regions=other),
        cascade.encode(["a small purple triangle"]),
    ]
    plan = cascade.plan(SamplingOptions(paint_weight=2.0))
    together = cascade.sample(Conditioning.cat(conds), Philox(1, range(3)), plan)["base"]
    alone = torch.cat([cascade.sample(c, Philox(1, [k]), plan)["base"] for k, c in enumerate(conds)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_a_long_negative_prompt_does_not_move_the_paint(cascade: Cascade) -> None:
    options = {"paint": layout(), "paint_weight": 2.0, "negative_prompt": "a green cross " * 8}
    assert np.isfinite(cascade(PROMPT, **options).stages["base"].numpy()).all()


def test_every_encoder_s_tokens_of_a_phrase_are_painted(cascade: Cascade) -> None:
    laid = paint(text_encoders(cascade.encoders), [PROMPT], [layout(0.5)])
    assert laid.tokens.keys() == {"t5", "clip_text"}
    for name, first in (("t5", 0), ("clip_text", 1)):  # CLIP's tokens open with a begin token
        words = PROMPT.split()
        circle = [first + k for k, word in enumerate(words) if word in ("red", "circle")]
        square = [first + k for k, word in enumerate(words) if word in ("blue", "square")]
        assert laid.tokens[name][0, 0].nonzero().flatten().tolist() == circle
        assert laid.tokens[name][0, 1].nonzero().flatten().tolist() == square
        assert set(laid.tokens[name].unique().tolist()) == {0.0, 0.5}


def test_an_occurrence_is_addressable(cascade: Cascade) -> None:
    second = Region("red circle", polygon(LEFT), occurrence=2)
    assert places(PROMPT, second) == [(PROMPT.rindex("red"), len(PROMPT))]
    laid = paint(text_encoders(cascade.encoders), [PROMPT], [[second]])
    assert laid.tokens["t5"][0, 0].nonzero().flatten().tolist() == [9, 10]
    with pytest.raises(ValueError, match=r"'red circle' is 2 times in the prompt"):
        places(PROMPT, dataclasses.replace(second, occurrence=3))


def test_paint_without_a_weight_is_refused(cascade: Cascade) -> None:
    with pytest.raises(ValueError, match="paint_weight is 0 in every stage"):
        cascade(PROMPT, paint=layout(), paint_weight=0.0)
    with pytest.raises(ValueError, match="paint_weight must be at least 0"):
        cascade(PROMPT, paint=layout(), paint_weight=-1.0)


# Layouts from files


def write(folder: Path, content: object) -> Path:
    path = folder / "layout.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_polygons_and_masks_say_the_same(tmp_path: Path) -> None:
    mask = Image.new("L", (256, 256))
    mask.paste(255, (0, 0, 128, 256))
    mask.save(tmp_path / "left.png")
    regions = read_layout(
        write(tmp_path, [{"phrase": "red circle", "mask": "left.png", "weight": 2}, {"phrase": "blue", "mask": LEFT}])
    )
    assert [(r.phrase, r.weight, r.occurrence) for r in regions] == [("red circle", 2.0, None), ("blue", 1.0, None)]
    torch.testing.assert_close(regions[0].mask.mean(), torch.tensor(0.5))
    assert (regions[0].mask - regions[1].mask).abs().mean() < 0.01


def test_masks_and_colour_maps_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "mask.png", exif=exif)
    mask.convert("RGB").save(tmp_path / "map.png", exif=exif)
    content = {"color_map_image": "map.png", "color_context": {"(255, 255, 255)": "white"}}
    for layout in ([{"phrase": "white", "mask": "mask.png"}], content):
        (region,) = read_layout(write(tmp_path, layout))
        assert (region.mask[:, :32].mean(), region.mask[:, 32:].mean()) == (0.0, 1.0)


@pytest.mark.parametrize("corners", [[1, 2, 3], [[0, 0], [1, 0], [1]], [[0, 0, 0], [1, 0, 0], [1, 1, 1]], {}])
def test_corners_that_are_no_points_are_refused(tmp_path: Path, corners: object) -> None:
    with pytest.raises(ValueError, match="region 1"):
        read_layout(write(tmp_path, [{"phrase": "x", "mask": corners}]))


def test_occurrences_count_from_one() -> None:
    assert Region("x", torch.ones(2, 2), occurrence=1).occurrence == 1
    with pytest.raises(ValueError, match="occurrence"):
        Region("x", torch.ones(2, 2), occurrence=0)


def test_a_colour_beyond_255_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "map.png")
    content = {"color_map_image": "map.png", "color_context": {"(300, 0, 0)": "red"}}
    with pytest.raises(ValueError, match="is not a colour"):
        read_layout(write(tmp_path, content))


def test_the_colour_map_of_the_public_versions(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), (255, 255, 255))
    image.paste((255, 0, 0), (0, 0, 32, 64))
    image.paste((7, 9, 182), (32, 0, 64, 64))
    image.save(tmp_path / "map.png")
    context = {"(255, 0, 0)": "a red circle, really,1.5", "(7,9,182)": "blue square"}
    regions = read_layout(write(tmp_path, {"color_map_image": "map.png", "color_context": context}))
    assert [(r.phrase, r.weight) for r in regions] == [("a red circle, really", 1.5), ("blue square", 1.0)]
    assert [float(r.mask.mean()) for r in regions] == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_colour_map_may_lose_some_colour(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.new("RGB", (256, 256), (250, 250, 250))
    image.paste((255, 165, 0), (20, 30, 120, 160))
    image.paste((0, 128, 0), (130, 100, 250, 250))
    image.save(tmp_path / f"map.{kind}", quality=75)
    context = {"(255,165,0)": "orange circle", "(0,128,0)": "a green square"}
    regions = read_layout(write(tmp_path, {"color_map_image": f"map.{kind}", "color_context": context}))
    for region, area in zip(regions, (100 * 130, 120 * 150), strict=True):
        assert float(region.mask.sum()) == pytest.approx(area, rel=0.05)
        assert set(region.mask.unique().tolist()) == {0.0, 1.0}
    assert caplog.messages[0].startswith(
        "no phrase has these colours of the map, which stay unpainted: (250, 250, 250)"
    )


def test_a_colour_of_a_map_is_the_nearest_and_hidden_ones_are_none() -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[0, :, 0], pixels[1, :, 0] = (200, 214, 216), (255, 100, 200)
    pixels[1, 2, 3] = 0
    first, second = color_map(pixels[:, [0, 1, 2, 2, 2]][:2, :2], {"(200, 0, 0)": "a", "(230, 0, 0)": "b"})
    assert (first.mask.tolist(), second.mask.tolist()) == ([[1, 1], [0, 0]], [[0, 0], [1, 0]])
    (left,) = color_map(pixels[:, 1:], {"(200, 0, 0)": "a"})
    assert left.mask.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match="given twice"):
        color_map(pixels, {"(200, 0, 0)": "a", "200,0,0": "b"})


def test_a_region_takes_a_mask_in_any_form(tmp_path: Path) -> None:
    levels = np.zeros((256, 256), np.uint8)
    levels[:, :128] = 255
    Image.fromarray(levels).save(tmp_path / "left.png")
    forms = [tmp_path / "left.png", str(tmp_path / "left.png"), Image.fromarray(levels), levels, levels > 0]
    forms += [torch.from_numpy(levels), torch.from_numpy(levels / 255), LEFT, tuple(map(tuple, LEFT))]
    for form in forms:
        region = Region("red", form)
        assert (region.mask[:, :127].min(), region.mask[:, 129:].max(), region.mask.dtype) == (1, 0, torch.float32)
    with pytest.raises(ValueError, match="values from 0 to 255; of float32, they must be from 0 to 1"):
        Region("red", levels.astype(np.float32))
    for wrong, message in (
        ({"weight": float("nan")}, "weight of 'red' must be at least 0, got nan"),
        ({"weight": True}, "must be a number"),
        ({"occurrence": 1.5}, "occurrence of 'red' must be an integer"),
    ):
        with pytest.raises(ValueError, match=message):
            Region.__init__.__wrapped__(Region.__new__(Region), "red", levels, **wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "is not JSON"),
        ([], "without regions"),
        ({"phrase": "x"}, "is no layout"),
        ([{"phrase": "x"}], "region 1 must have phrase and mask"),
        ([{"phrase": "x", "mask": LEFT, "wieght": 2}], "region 1 must have phrase and mask, and may have weight"),
        ([{"phrase": "x", "mask": LEFT, "weight": "much"}], "weight must be a number"),
        ([{"phrase": "x", "mask": LEFT, "weight": -1}], "weight of 'x' must be at least 0"),
        ([{"phrase": "x", "mask": LEFT, "occurrence": 0}], "occurrence of 'x' must be at least 1"),
        ([{"phrase": " ", "mask": LEFT}], "phrase of a painted region must be words"),
        ([{"phrase": "x", "mask": [[0, 0], [1, 1]]}], "a polygon has at least three corners"),
        ([{"phrase": "x", "mask": [[0, 0], [1, 1], [0, 2]]}], "in 0 to 1"),
        ([{"phrase": "x", "mask": "gone.png"}], "no image"),
        ([{"phrase": "x", "mask": "black.png"}], "mask of 'x' is empty"),
        ([{"phrase": "x", "mask": "wide.png"}], "is 64x32; it must be square"),
        ([{"phrase": "x", "mask": "text.png"}], "is not an image"),
        ([{"phrase": "x", "mask": "white.png"}, {"phrase": "y", "mask": "large.png"}], "must be of one size"),
        ({"color_map_image": "white.png", "color_context": {"(1, 2, 3)": "x,1"}}, "is nowhere in the colour map"),
        ({"color_map_image": "white.png", "color_context": {"red": "x,1"}}, "'red' is not a colour"),
        ({"color_map_image": "white.png", "color_context": ["x"]}, "color_context must be an object"),
        ({"color_map_image": "white.png", "color_context": {}}, "without regions"),
    ],
)
def test_a_wrong_layout_is_named(tmp_path: Path, content: object, message: str) -> None:
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "white.png")
    Image.new("L", (48, 48), 255).save(tmp_path / "large.png")
    Image.new("L", (64, 32), 255).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_layout(write(tmp_path, content))


def test_a_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"20000x20000; at most 64 million pixels|too many pixels"):
        open_image(bomb, exif=True)


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    picture().save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"half\.png is a broken image"):
        open_image(tmp_path / "half.png", exif=True)


# Style


def test_a_style_picture_matters_by_its_scale(cascade: Cascade) -> None:
    plain = cascade(PROMPT).stages["base"]
    none, one, two = (cascade(PROMPT, style=Style(picture(), s)).stages["base"] for s in (0.0, 1.0, 2.0))
    torch.testing.assert_close(none, plain, atol=1e-5, rtol=1e-4)
    assert (one - plain).norm() > 1e-2
    assert (two - plain).norm() > (one - plain).norm()
    assert not torch.allclose(one, cascade(PROMPT, style=Style(picture(1))).stages["base"], atol=1e-4)


def test_a_style_picture_may_be_of_any_size_and_mode(cascade: Cascade) -> None:
    for mode, size in (("L", (40, 90)), ("RGBA", (130, 64)), ("P", (64, 64))):
        cascade(PROMPT, style=Style(picture(side=128).resize(size).convert(mode)))
    with pytest.raises(ValueError, match="style_scale must be at least 0"):
        Style(picture(), -1.0)


@pytest.mark.parametrize("kind", ["style", "edit"])
def test_an_image_is_read_as_viewers_show_it(kind: str, cascade: Cascade) -> None:
    """Colours hidden under alpha 0 change nothing, and neither do 16 bits instead of 8."""

    def read(image: Image.Image) -> Tensor:
        if kind == "edit":
            return Edit(image).at(16, 1, torch.device("cpu")).images
        return encode_prompts(cascade.encoders, [PROMPT], [Style(image).image]).sources["clip_image"].tokens

    shown = picture(side=64).convert("RGB")
    black, white = (Image.new("RGBA", (64, 64), (*[gray] * 3, 0)) for gray in (0, 255))
    for one in (black, white):
        one.paste(shown.crop((0, 0, 32, 64)), (0, 0))
    assert torch.equal(read(black), read(white))
    assert not torch.allclose(read(white), read(shown))
    gray = np.asarray(shown.convert("L"))
    assert torch.equal(read(Image.fromarray(gray.astype(np.uint16) * 257)), read(Image.fromarray(gray)))


def test_a_style_image_as_long_as_it_is_thin_is_refused() -> None:
    with pytest.raises(ValueError, match="the style image is 1000x5; at most 100 times as long as wide"):
        Style(Image.new("RGB", (1000, 5)))


def test_a_model_without_a_picture_encoder_says_so(cascade: Cascade) -> None:
    blind = Cascade("blind", text_encoders(cascade.encoders), cascade.stages)
    with pytest.raises(ValueError, match="stage 'base' reads clip_image, and the model has no encoder of it"):
        blind(PROMPT, style=Style(picture()))


# Words


def test_weighted_words_matter_in_both_encoders(cascade: Cascade) -> None:
    cond = cascade.encode(["a (red:1.5) circle", "a blue square, outlined"])
    for name, first in (("t5", 0), ("clip_text", 1)):
        weight = cond.sources[name].weight
        assert weight is not None
        assert weight[0, first + 1] == 1.5
        assert weight.sum() == weight.numel() + 0.5
    plain = cascade("a red circle").stages["base"]
    assert torch.equal(plain, cascade("a (red:1) circle").stages["base"])
    assert not torch.allclose(plain, cascade("a (red:2) circle").stages["base"], atol=1e-5)


def test_a_phrase_under_a_weight_can_be_painted(cascade: Cascade) -> None:
    cascade("a (red circle:1.5) and a blue square", paint=layout(), paint_weight=1.0)
    with pytest.raises(ValueError, match="phrase 'red circle' is not in the prompt 'a green cross'"):
        cascade("a green cross", paint=layout(), paint_weight=1.0)


def test_what_is_truncated_is_told(cascade: Cascade) -> None:
    assert cascade.prompt_notices(PROMPT) == []
    t5, clip = sorted(cascade.prompt_notices("a red circle " * 40), key=len)
    assert t5.startswith("too long for t5")
    assert clip.startswith("too long for clip_text")
    assert max(map(len, cascade.prompt_notices("a red circle " * 300))) < 200, "the beginning alone of a long end"
    late = "a red circle " * 40 + "and a blue square"
    with pytest.raises(ValueError, match="no encoder reads the phrase"):
        cascade(late, paint=[Region("blue square", polygon(LEFT))], paint_weight=1.0)


@pytest.mark.parametrize(
    "prompt", ["دائرة حمراء على اليسار", "赤い円と青い四角", "a réd 🔴 circle — “big”", "e\u0301" * 30]
)
def test_any_script_is_read(cascade: Cascade, prompt: str) -> None:
    assert cascade(prompt).images[0].size == (64, 64)


# Switching and batches


def test_switching_goes_from_one_prompt_to_the_other(cascade: Cascade) -> None:
    def base(**options: object) -> torch.Tensor:
        return cascade(PROMPT, num_inference_steps=4, seed=1, **options).stages["base"]

    other = "a green cross on a mint background"
    assert torch.equal(base(switch=Switch(other, 1.0)), base())
    torch.testing.assert_close(
        base(switch=Switch(other, 0.0)), cascade(other, num_inference_steps=4, seed=1).stages["base"]
    )
    middle = base(switch=Switch(other, 0.5))
    assert not torch.allclose(middle, base(), atol=1e-4)
    assert not torch.allclose(middle, base(switch=Switch(other, 0.0)), atol=1e-4)
    with pytest.raises(ValueError, match=r"\[0, 1\], a share of the steps, got 1.5"):
        Switch(other, 1.5)


def test_a_later_call_goes_on_counting(cascade: Cascade) -> None:
    together = cascade([PROMPT, "a green cross"], seed=9).stages["base"]
    second = cascade("a green cross", seed=9, first_index=1).stages["base"]
    torch.testing.assert_close(together[1:], second, atol=1e-4, rtol=1e-4)


def test_a_run_of_many_prompts_goes_on_where_it_was_cut(model_folder: Path, tmp_path: Path, capsys) -> None:
    prompts = tmp_path / "many.txt"
    prompts.write_text("a red circle\na blue square\na green cross\n")

    def run(*more: str) -> int:
        words = ["--prompts", str(prompts), "-o", str(tmp_path / "many"), "--model", str(model_folder)]
        return main(["sample", *words, "--num-images", "2", *more])

    assert run("--batch-size", "4") == 0
    files = sorted((tmp_path / "many").glob("*.png"))
    first = {path.name: np.array(Image.open(path)) for path in files}
    assert list(first) == [f"{k:05d}.png" for k in range(6)]
    for name in ("00001.png", "00002.png", "00005.png"):
        (tmp_path / "many" / name).unlink()
    assert run("--batch-size", "4") == 0
    assert "6 images, 3 already there" in capsys.readouterr().out
    for path in files:
        assert np.array_equal(first[path.name], np.array(Image.open(path)))
    assert run("--batch-size", "4", "--seed", "1") == 1
    assert "holds a run with other settings: seed was 0, now 1; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a prompt, or a file of them"),
        (["a", "--prompts", "x.txt"], "give a prompt, or a file of them"),
        (["--prompts", "x.txt"], "x.txt"),
        (["a", "--style-image", "gone.png"], "no image gone.png"),
        (["a", "--style-image", "text.png"], "text.png is not an image"),
        (["a", "--paint", "gone.json"], "gone.json"),
        (["a", "--paint", "layout.json"], "phrase 'zebra' is not in the prompt 'a'"),
        (["a", "--guidance-interval", "[1]"], "--guidance-interval takes [low, high]"),
        (["a", "--guidance-interval", "[2,1]"], "guidance_interval must be two rising noise levels"),
        (["a", "--dynamic-threshold", "2"], "dynamic_threshold must be above 0 and at most 1"),
        (["a", "--switch-prompt", "b", "--switch-at", "2"], "switch at must be in [0, 1]"),
        (["a (red:50) b"], "weight of a word must be from 0 to 10"),
    ],
)
def test_wrong_words_are_one_line(
    words: Sequence[str], message: str, model_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no image")
    Path("layout.json").write_text(json.dumps([{"phrase": "zebra", "mask": LEFT}]))
    before = sorted(tmp_path.iterdir())
    weights = ["--paint-weight", "1"] if "--paint" in words else []
    assert main(["sample", *words, "--model", str(model_folder), *weights]) != 0
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("ediffi: error: ")
    assert message in line
    assert sorted(tmp_path.iterdir()) == before
