"""Degradation after Real-ESRGAN: off is off, a draw is a function of its position, and the numbers are as published."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from ediffi.cli.data import sheet as sheet_command
from ediffi.cli.parser import run
from ediffi.data.degradation.degrade import Degradation, DrawnDegradation, add_noise, jpeg, random_source, resize
from ediffi.data.degradation.kernels import SIZES, Kernel, draw_sinc
from ediffi.data.degradation.rounds import MODES, Blur, DrawnRound, Noise, Resize, Round
from ediffi.data.degradation.sheet import render_images, write_sheet
from ediffi.diffusion.low_res import LowResolution

DRAWS = 2000


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return render_images(1, 64, seed=0)[0]


@pytest.fixture(scope="module")
def plans() -> list[DrawnDegradation]:
    drawn = [Degradation().draw(random_source(0, index)) for index in range(DRAWS)]
    assert all(plan is not None for plan in drawn)
    return [plan for plan in drawn if plan is not None]


def shares_agree(counts: Counter, shares: dict) -> bool:
    """Whether counts fit probabilities: a chi-squared test that a right draw fails once in 10,000 seeds."""
    assert set(counts) <= set(shares)
    total, names = sum(counts.values()), [name for name, share in shares.items() if share]
    wanted = [shares[name] * total for name in names]
    return scipy.stats.chisquare([counts[name] for name in names], wanted).pvalue > 1e-4


def uniform(values: list[float], low: float, high: float) -> bool:
    return scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-4


# Identities


@pytest.mark.parametrize("off", [Degradation(strength=0), Degradation(probability=0)])
def test_off_is_the_path_of_today(off: Degradation, image: torch.Tensor) -> None:
    images = torch.stack([image, image.flip(2)])
    plain = LowResolution(4, max_aug_level=0, degrade_probability=0)
    today, _ = plain(images, torch.Generator().manual_seed(0))
    degraded = torch.stack([off(one, random_source(0, index)) for index, one in enumerate(images)])
    assert torch.equal(degraded, today)


def test_a_picture_is_a_function_of_seed_and_position(image: torch.Tensor) -> None:
    degrade = Degradation()
    first, again = (degrade(image, random_source(1, 5, 7)) for _ in range(2))
    assert torch.equal(first, again)
    for other in (random_source(2, 5, 7), random_source(1, 5, 8), random_source(1, 6, 7), random_source(1, 5, 7, 0)):
        assert not torch.equal(first, degrade(image, other))


def test_positions_are_apart_from_other_numbers_of_the_same_seed() -> None:
    spawned = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(0, 1)))
    assert random_source(3, 0, 1).random() not in (np.random.default_rng([3, 0, 1]).random(), spawned.random())


def test_global_random_numbers_are_left_alone(image: torch.Tensor) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for index in range(20):
        Degradation()(image, random_source(0, index))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_the_clean_picture_is_left_alone(image: torch.Tensor) -> None:
    before = image.clone()
    for index in range(20):
        Degradation()(image, random_source(0, index))
    assert torch.equal(image, before)


# Kernels


def test_a_gaussian_is_that_of_torchvision_and_scipy() -> None:
    x = torch.rand(3, 40, 31)
    ours = Kernel("gaussian", 21, (1.7, 1.7)).blur(x)
    torch.testing.assert_close(ours, transforms.gaussian_blur(x, [21, 21], [1.7, 1.7]), atol=2e-6, rtol=0)
    wanted = scipy.ndimage.gaussian_filter(x.double().numpy(), (0, 1.7, 1.7), mode="mirror", radius=(0, 10, 10))
    torch.testing.assert_close(ours.double(), torch.from_numpy(wanted), atol=2e-6, rtol=0)


def test_an_anisotropic_gaussian_has_the_covariance_that_was_drawn() -> None:
    angle, (a, b) = 0.6, (2.4, 1.1)
    weights = Kernel("gaussian", 21, (a, b), angle).weights()
    along = torch.arange(21.0) - 10
    y, x = torch.meshgrid(along, along, indexing="ij")
    cov = torch.tensor([[(weights * p * q).sum() for q in (x, y)] for p in (x, y)])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    torch.testing.assert_close(cov, turn @ torch.diag(torch.tensor([a**2, b**2])) @ turn.T, atol=0.02, rtol=0)


def test_turned_by_a_right_angle_the_axes_change_places() -> None:
    for kind in ("gaussian", "generalized", "plateau"):
        turned = Kernel(kind, 15, (2.0, 0.7), math.pi / 2, beta=1.4).weights()
        torch.testing.assert_close(turned, Kernel(kind, 15, (0.7, 2.0), beta=1.4).weights())


def test_beta_1_of_a_generalised_gaussian_is_a_gaussian() -> None:
    torch.testing.assert_close(
        Kernel("generalized", 13, (2.0, 1.0), 0.3, beta=1.0).weights(),
        Kernel("gaussian", 13, (2.0, 1.0), 0.3).weights(),
    )


def test_a_plateau_halves_at_one_sigma_and_is_flatter_the_larger_beta() -> None:
    row = Kernel("plateau", 21, (3.0, 3.0), beta=1.0).weights()[10]
    assert float(row[13] / row[10]) == pytest.approx(0.5, abs=1e-6)
    flat = Kernel("plateau", 21, (3.0, 3.0), beta=2.0).weights()[10]
    assert flat[11] / flat[10] > row[11] / row[10]


@pytest.mark.parametrize("cutoff", [math.pi / 3, math.pi / 2])
def test_a_sinc_passes_what_is_below_its_cutoff(cutoff: float) -> None:
    """Cut to 21 pixels, the response oscillates: that is what rings in pictures."""
    response = torch.fft.fft2(
        torch.fft.ifftshift(F.pad(Kernel("sinc", 21, cutoff=cutoff).weights(), (21, 22, 21, 22)))
    ).real
    frequency = torch.fft.fftfreq(64) * 2 * math.pi
    r = torch.hypot(frequency[:, None], frequency[None, :])
    assert float(response[0, 0]) == pytest.approx(1, abs=1e-5)
    assert float(response[r < 0.6 * cutoff].mean()) > 0.7
    assert float(response[r > 1.4 * cutoff].abs().max()) < 0.05


@pytest.mark.parametrize(
    "kernel", [Kernel("sinc", 9), Kernel("plateau", 21, (0.01, 0.01)), Kernel("generalized", 7, (3, 2))]
)
def test_kernels_add_up_to_one_and_leave_a_flat_picture_flat(kernel: Kernel) -> None:
    assert float(kernel.weights().sum()) == pytest.approx(1, abs=1e-5)
    flat = torch.full((3, 6, 1), 0.4)
    torch.testing.assert_close(kernel.blur(flat), flat, atol=1e-5, rtol=0)


# Draws


def test_kernels_are_drawn_as_published(plans: list[DrawnDegradation]) -> None:
    kinds = {"gaussian": 0.9 * 0.7, "generalized": 0.9 * 0.15, "plateau": 0.9 * 0.15, "sinc": 0.1}
    for step, blurred in (("first", 1.0), ("second", 0.8)):
        drawn = [getattr(plan, step).kernel for plan in plans]
        names = Counter(kernel.kind if kernel else None for kernel in drawn)
        assert shares_agree(names, {None: 1 - blurred} | {kind: blurred * share for kind, share in kinds.items()})
        bells = [kernel for kernel in drawn if kernel and kernel.kind != "sinc"]
        isotropic = Counter(kernel.sigma[0] == kernel.sigma[1] for kernel in bells)
        assert shares_agree(isotropic, {True: 0.45 + 0.12 + 0.12, False: 0.25 + 0.03 + 0.03})
        assert uniform([kernel.sigma[0] for kernel in bells], 0.2, 3.0 if step == "first" else 1.5)
        assert shares_agree(Counter(kernel.size for kernel in drawn if kernel), dict.fromkeys(SIZES, 1 / len(SIZES)))
        turned = [kernel.angle for kernel in bells if kernel.sigma[0] != kernel.sigma[1]]
        assert uniform(turned, -math.pi, math.pi)


def test_shapes_are_drawn_on_both_sides_of_1() -> None:
    rng = np.random.default_rng(0)
    for name, low, high in (("generalized_iso", 0.5, 4.0), ("plateau_aniso", 1.0, 2.0)):
        blur = Blur(sinc=0, kernels={name: 1.0})
        betas = [kernel.beta for kernel in (blur.draw(rng) for _ in range(DRAWS)) if kernel]
        above = [beta for beta in betas if beta > 1]
        assert shares_agree(Counter(beta > 1 for beta in betas), {True: 0.5, False: 0.5})
        assert uniform(above, 1, high)
        assert all(low <= beta <= 1 for beta in betas if beta <= 1)


def test_sincs_cut_off_where_published() -> None:
    drawn = [draw_sinc(np.random.default_rng(index)) for index in range(DRAWS)]
    assert uniform([kernel.cutoff for kernel in drawn if kernel.size < 13], math.pi / 3, math.pi)
    assert uniform([kernel.cutoff for kernel in drawn if kernel.size >= 13], math.pi / 5, math.pi)


def test_scales_are_drawn_as_published(plans: list[DrawnDegradation]) -> None:
    for step, shares, low, high in (("first", (0.2, 0.7, 0.1), 0.15, 1.5), ("second", (0.3, 0.4, 0.3), 0.3, 1.2)):
        scales = [getattr(plan, step).scale for plan in plans]
        kinds = Counter("up" if scale > 1 else "down" if scale < 1 else "keep" for scale in scales)
        assert shares_agree(kinds, dict(zip(("up", "down", "keep"), shares, strict=True)))
        assert uniform([scale for scale in scales if scale > 1], 1, high)
        assert uniform([scale for scale in scales if scale < 1], low, 1)
        assert shares_agree(Counter(getattr(plan, step).mode for plan in plans), dict.fromkeys(MODES, 1 / 3))


def test_noise_jpeg_and_the_last_filter_are_drawn_as_published(plans: list[DrawnDegradation]) -> None:
    for step, sigma, poisson in (("first", (1, 30), (0.05, 3)), ("second", (1, 25), (0.05, 2.5))):
        steps = [getattr(plan, step) for plan in plans]
        assert shares_agree(Counter(one.noise for one in steps), {"gaussian": 0.5, "poisson": 0.5})
        assert shares_agree(Counter(one.gray for one in steps), {True: 0.4, False: 0.6})
        assert uniform([one.level for one in steps if one.noise == "gaussian"], *sigma)
        assert uniform([one.level for one in steps if one.noise == "poisson"], *poisson)
        qualities = [one.quality for one in steps]
        assert (min(qualities), max(qualities)) == (30, 95)
        assert np.mean(qualities) == pytest.approx(62.5, abs=1.5)
    assert shares_agree(Counter(plan.sinc is not None for plan in plans), {True: 0.8, False: 0.2})
    assert shares_agree(Counter(plan.jpeg_last for plan in plans), {True: 0.5, False: 0.5})


def test_probability_is_the_share_that_is_degraded() -> None:
    drawn = Counter(Degradation(probability=0.3).draw(random_source(0, i)) is not None for i in range(DRAWS))
    assert shares_agree(drawn, {True: 0.3, False: 0.7})


def test_strength_weakens_every_draw() -> None:
    """Re-stated for the same random numbers: widths and levels are multiplied, scales and losses of JPEG shrink."""
    modes, sincs, last_sincs = Counter(), Counter(), Counter()
    for index in range(DRAWS):
        whole, half = ([np.random.default_rng(index) for _ in range(3)] for _ in range(2))
        bell, weak = Blur(sinc=0).draw(whole[0]), Blur(sinc=0).draw(half[0], 0.5)
        assert weak.sigma == pytest.approx([0.5 * sigma for sigma in bell.sigma])
        assert Noise().draw(half[1], 0.5)[1] == pytest.approx(0.5 * Noise().draw(whole[1])[1])
        scale, mode = Resize().draw(half[2], 0.5)
        assert scale == pytest.approx(Resize().draw(whole[2])[0] ** 0.5)
        modes[mode] += 1
        sincs[Blur().draw(np.random.default_rng(index), 0.5).kind == "sinc"] += 1
        last_sincs[Degradation(strength=0.5).draw(random_source(1, index)).sinc is not None] += 1
        assert 65 <= Round().draw(np.random.default_rng(index), 0.5).quality <= 98
    assert shares_agree(modes, {"area": 2 / 3, "bilinear": 1 / 6, "bicubic": 1 / 6})
    assert shares_agree(sincs, {True: 0.05, False: 0.95})
    assert shares_agree(last_sincs, {True: 0.4, False: 0.6})


# Operations


@pytest.mark.parametrize("jpeg_last", [False, True])
def test_the_order_of_operations(jpeg_last: bool, image: torch.Tensor) -> None:
    """Section 3 of Real-ESRGAN, re-stated: JPEG comes before or after the last resize and sinc."""
    blur, sinc = Kernel("gaussian", 7, (1.0, 1.0)), Kernel("sinc", 7, cutoff=math.pi / 2)
    first = DrawnRound(blur, 0.5, "bilinear", "gaussian", 10.0, False, 70)
    second = DrawnRound(None, 1.2, "bicubic", "poisson", 0.5, True, 40)
    drawn = DrawnDegradation(first, second, sinc, jpeg_last, "area")
    rng, side = random_source(0), image.shape[-1]
    out = add_noise(resize(blur.blur(image / 2 + 0.5), side // 2, side // 2, "bilinear"), "gaussian", 10.0, False, rng)
    up = round(side // 4 * 1.2)
    out = add_noise(resize(jpeg(out, 70), up, up, "bicubic"), "poisson", 0.5, True, rng)
    out = out if jpeg_last else jpeg(out, 40)
    out = sinc.blur(resize(out, side // 4, side // 4, "area"))
    out = (jpeg(out, 40) if jpeg_last else out).clamp(0, 1) * 2 - 1
    assert torch.equal(Degradation().apply(drawn, image, random_source(0)), out)


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_the_level_that_was_drawn(gray: bool) -> None:
    noise = add_noise(torch.full((3, 200, 200), 0.5), "gaussian", 20.0, gray, random_source(0)) - 0.5
    assert float(noise.std()) == pytest.approx(20 / 255, rel=0.02)
    assert bool((noise[0] == noise[2]).all()) == gray


@pytest.mark.parametrize("value", [0.2, 0.6])
@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_grows_with_the_root_of_the_value(value: float, gray: bool) -> None:
    flat = torch.full((3, 200, 200), value)
    noise = add_noise(flat, "poisson", 1.5, gray, random_source(0)) - flat
    assert float(noise.std()) == pytest.approx(1.5 * math.sqrt(value / 256), rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=2e-3)


def test_jpeg_is_that_of_pillow_and_loses_more_the_lower_its_quality() -> None:
    from io import BytesIO

    x = (render_images(1, 48, seed=1)[0] / 2 + 0.5).clamp(0, 1)
    written = BytesIO()
    pixels = (x * 255).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(written, "jpeg", quality=40)
    read = torch.from_numpy(np.array(Image.open(written))).permute(2, 0, 1) / 255
    assert (jpeg(x, 40) - read).abs().mean() < 0.005
    losses = [float((jpeg(x, quality) - x).square().mean()) for quality in (95, 60, 30)]
    assert losses == sorted(losses)
    assert torch.equal(jpeg(x, 100), x)


def test_resizing_by_area_is_averaging() -> None:
    x = torch.rand(3, 24, 16)
    torch.testing.assert_close(resize(x, 6, 4, "area"), F.avg_pool2d(x[None], 4)[0])


@pytest.mark.parametrize("shape", [(4, 4), (7, 5), (33, 65), (4, 90), (64, 64)])
def test_any_size_stays_in_range(shape: tuple[int, int]) -> None:
    x = torch.where(torch.rand(3, *shape) < 0.5, -1.0, 1.0)  # as sharp as can be: filters overshoot
    x[:, : shape[0] // 2] = 1.0
    for index in range(30):
        out = Degradation()(x, random_source(0, index))
        assert out.shape == (3, shape[0] // 4, shape[1] // 4)
        assert out.dtype == torch.float32
        assert bool(torch.isfinite(out).all())
        assert float(out.abs().max()) <= 1


def test_stronger_is_further_from_clean(image: torch.Tensor) -> None:
    clean = Degradation(strength=0)(image, random_source(0))
    errors = []
    for strength in (0.01, 0.2, 0.5, 1.0):
        degrade = Degradation(strength=strength)
        outs = torch.stack([degrade(image, random_source(0, index)) for index in range(15)])
        errors.append(float((outs - clean).square().mean().sqrt()))
    assert errors == sorted(errors)
    assert errors[0] < 0.1 < 0.2 < errors[-1]


def test_order_and_colour_survive(image: torch.Tensor) -> None:
    """Degraded pictures average to about the clean one: nothing shifts, darkens or turns."""
    clean = Degradation(strength=0)(image, random_source(0))
    mean = torch.stack([Degradation()(image, random_source(0, index)) for index in range(80)]).mean(0)
    assert (mean - clean).mean().abs() < 0.03
    shifted = [float((mean.roll(move, 2) - clean).square().mean()) for move in (-1, 0, 1)]
    assert min(shifted) == shifted[1]


# Recipes and bad input


def test_a_recipe_says_strength_and_ranges(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_argument("--degradation", type=Degradation)
    path = tmp_path / "recipe.yaml"
    path.write_text("degradation: {strength: 0.5, first: {blur: {sigma: [0.2, 1.0]}, jpeg: [50, 90]}}\n")
    made = parser.instantiate(parser.parse_path(path)).degradation
    assert (made.strength, made.first.blur.sigma, made.first.jpeg) == (0.5, (0.2, 1.0), (50, 90))
    assert made.second == Degradation().second


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Degradation(scale=1), "scale must be at least 2, got 1"),
        (lambda: Degradation(strength=1.5), r"strength must be in \[0, 1\], got 1.5"),
        (lambda: Degradation(probability=float("nan")), "probability must be in"),
        (lambda: Blur(kernels={"box": 1.0}), "no blur kernel is called 'box'"),
        (lambda: Blur(kernels={"iso": 0.5}), "kernels must be at least 0 and add up to 1"),
        (lambda: Blur(sigma=(3.0, 0.2)), "sigma must be two values at least 0.01, the lower first"),
        (lambda: Blur(plateau_beta=(1.5, 2.0)), "plateau_beta must be two values, one in"),
        (lambda: Resize(scale=(0.0, 1.0)), "scale must be two values, one in"),
        (lambda: Resize(shares=(0.5, 0.5, 0.5)), "shares must be at least 0 and add up to 1"),
        (lambda: Noise(sigma=(-1.0, 3.0)), "sigma must be two values at least 0"),
        (lambda: Round(jpeg=(0, 95)), "jpeg must be two values from 1 to 100"),
        (lambda: Degradation()(torch.zeros(3, 3, 9), random_source(0)), "9x3 is too small to be 4 times smaller"),
    ],
)
def test_bad_values_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# The sheet


def test_a_sheet_is_written(tmp_path: Path) -> None:
    photograph, sheet = tmp_path / "photograph.png", tmp_path / "new" / "sheet.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(photograph)
    words = [str(sheet), "--pictures", str(photograph), "--size", "48", "--strengths", "[0.5,1]", "--draws", "1"]
    assert run(sheet_command, words, "data sheet") == 0
    with Image.open(sheet) as drawn:
        assert min(drawn.size) > 400
    assert [path.name for path in sheet.parent.iterdir()] == ["sheet.png"]
    with pytest.raises(ValueError, match="0 images"):
        write_sheet([], tmp_path / "none.png", Degradation(), [1.0], draws=1)
