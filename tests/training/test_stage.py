"""Training: the loss, dropout, degradation, and a resumed run that equals the unbroken one."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn

from ediffi.data.index import Shard
from ediffi.data.module import ShardData
from ediffi.data.stream import Batch, ImageTransform, ShardStream
from ediffi.diffusion.low_res import LowResolution, augment
from ediffi.diffusion.noise import Interval, LogNormal
from ediffi.pipeline.stage import Sampling
from ediffi.registry import denoisers
from ediffi.registry.denoisers.precondition import Preconditioned, upsample
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, Embedding
from ediffi.training.callbacks.sample_grid import SampleGrid
from ediffi.training.lightning_module import TOKENS, DiffusionStage
from ediffi.training.loss import drop_sources, dropout_of, low_resolution, sum_by_band, weighted_losses

QUIET = [
    "ignore:.*does not have many workers.*",
    "ignore:.*resuming from a checkpoint that ended before.*",
    "ignore:.*IterableDataset.*__len__.*",
    "ignore:.*LeafSpec.*",
    "ignore:.*dirpath has changed.*",
]
pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


def a_batch(shards: list[Shard], size: int = 16) -> Batch:
    return next(iter(ShardStream(shards, ImageTransform(size), batch_size=8, seed=0))).float()


def stage(low_res: LowResolution | None = None) -> DiffusionStage:
    torch.manual_seed(0)
    if low_res is None:
        denoiser = denoisers.create("unet_toybox", channels=32, context_width=32)
    else:
        tiny = {"channels": 32, "channel_mults": (1, 1), "num_res_blocks": (1, 1), "cross_attention_levels": (1,)}
        denoiser = denoisers.create("efficient_toybox64", norm_groups=4, **tiny)
    return DiffusionStage(denoiser, low_res=low_res)


def trainer(folder: Path, steps: int) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[EMAWeightAveraging(decay=0.9), ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1)],
    )


def checkpoint_at(folder: Path, step: int) -> Path:
    (found,) = folder.glob(f"*step={step}.ckpt")
    return found


@pytest.mark.parametrize("low_res", [None, LowResolution()], ids=["base", "super-resolution"])
def test_a_resumed_run_equals_the_unbroken_one(
    tmp_path: Path, shard_folder: Path, low_res: LowResolution | None
) -> None:
    size = 16 if low_res is None else 32
    data = {"train": shard_folder, "val": shard_folder, "image_size": size, "batch_size": 4}
    trainer(tmp_path / "whole", 6).fit(stage(low_res), ShardData(**data))
    trainer(tmp_path / "first", 3).fit(stage(low_res), ShardData(**data))
    resumed = trainer(tmp_path / "second", 6)
    resumed.fit(stage(low_res), ShardData(**data), ckpt_path=checkpoint_at(tmp_path / "first", 3), weights_only=True)

    states = [torch.load(checkpoint_at(tmp_path / part, 6), weights_only=True) for part in ("whole", "second")]
    for part in ("state_dict", "current_model_state"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    moments = [state["optimizer_states"][0]["state"] for state in states]
    for index, moment in moments[0].items():
        assert torch.equal(moment["exp_avg_sq"], moments[1][index]["exp_avg_sq"])
    started = torch.load(checkpoint_at(tmp_path / "first", 3), weights_only=True)["state_dict"]
    assert any(not torch.equal(value, started[name]) for name, value in states[0]["state_dict"].items())


def test_training_learns(shards: list[Shard]) -> None:
    learner, batch = stage(), a_batch(shards)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=5e-3)
    learner.log = lambda *args, **kwargs: None
    losses = []
    for _ in range(25):
        loss = learner.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, abs=0.7)
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_of_a_perfect_denoiser_is_zero(shards: list[Shard]) -> None:
    batch = a_batch(shards)

    class Oracle(Preconditioned):
        def forward(self, x, sigma, cond):
            return batch.images

    learner = DiffusionStage(Oracle(nn.Identity()))
    learner.log = lambda *args, **kwargs: None
    assert learner.training_step(batch, 0).item() == 0


def test_bands_of_the_loss_are_quarters_of_the_training_noise() -> None:
    """Their edges are `exp(mean + std·z)` at the quartiles z = -0.67449, 0, 0.67449 of the normal distribution."""
    noise = LogNormal(-0.2, 1.2)
    edges = torch.tensor([-0.674490, 0.0, 0.674490]).mul(1.2).sub(0.2).exp()
    sigma = torch.cat([edges * 0.999, edges * 1.001])
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    sums, counts = sum_by_band(losses, sigma, noise, 4)
    assert sums.tolist() == [1.0, 8.0 + 2.0, 16.0 + 4.0, 32.0]
    assert counts.tolist() == [1, 2, 2, 1]
    drawn = noise.sample(40_000, torch.Generator().manual_seed(0))
    assert sum_by_band(torch.ones_like(drawn), drawn, noise, 8)[0].div(5_000).allclose(torch.ones(8), atol=0.05)


def logged(learner: DiffusionStage) -> dict[str, float]:
    """What a stage logs from now on, by name."""
    values: dict[str, float] = {}
    learner.log = lambda name, value, **options: values.update({name: float(value)})  # type: ignore[method-assign]
    return values


@torch.no_grad()
def test_a_stage_logs_the_mean_loss_of_each_band(shards: list[Shard]) -> None:
    """An expert of the noisier half validates on bands 2 and 3; and the mean over all samples of all batches is the
    loss, in validation as between two logged steps."""
    learner, batch = stage(), a_batch(shards)
    learner.interval = Interval(1, 1)
    values = logged(learner)
    one = replace(batch, images=batch.images[:1], cond=batch.cond[:1], keys=batch.keys[:1])
    for number, part in enumerate((batch, one)):
        learner.validation_step(part, number)
    assert not values
    learner.on_validation_epoch_end()
    assert set(values) == {"val/loss", "val/loss_band2", "val/loss_band3"}
    parts = [learner._losses(p.images, p.cond, learner._randomness(p, "validation")) for p in (batch, one)]
    sigma, losses = (torch.cat(both) for both in zip(*parts, strict=True))
    upper = sigma > learner.noise.quantile(torch.tensor([0.75]))
    assert 0 < upper.sum() < 9
    assert values["val/loss"] == pytest.approx(losses.mean().item())
    assert values["val/loss_band3"] == pytest.approx(losses[upper].mean().item())
    assert values["val/loss_band2"] == pytest.approx(losses[~upper].mean().item())
    values.clear()
    learner.on_validation_epoch_end()
    assert not values, "the next validation begins anew"


def test_the_loss_is_weighted_by_the_noise_level() -> None:
    """`(sigma² + sigma_data²) / (sigma·sigma_data)²` times the mean squared error (EDM, table 1)."""

    class Biased(Preconditioned):
        def forward(self, x, sigma, cond):
            return x - sigma.view(-1, 1, 1, 1) * noise + 0.5

    denoiser = Biased(nn.Identity(), sigma_data=0.6)
    images, noise, sigma = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0.1, 2.0])
    found = weighted_losses(denoiser, images, noise, sigma, Conditioning())
    torch.testing.assert_close(found, (sigma**2 + 0.36) / (sigma * 0.6) ** 2 * 0.25)


def test_sources_are_dropped_each_on_its_own() -> None:
    count = 4000
    ones = Embedding(torch.ones(count, 1, 2), torch.ones(count, 1, dtype=torch.bool), torch.ones(count, 2))
    cond = Conditioning({"t5": ones, "clip_text": ones, "own": ones})
    dropped = drop_sources(cond, {"t5": 0.25, "clip_text": 0.2}, Philox(0, range(count)))
    kept = {name: embedding.mask[:, 0].float() for name, embedding in dropped.sources.items()}
    assert kept["t5"].mean().item() == pytest.approx(0.75, abs=0.03)
    assert kept["clip_text"].mean().item() == pytest.approx(0.8, abs=0.03)
    assert kept["own"].all()
    both = ((kept["t5"] == 0) & (kept["clip_text"] == 0)).float().mean().item()
    assert both == pytest.approx(0.05, abs=0.015)
    gone = dropped.sources["t5"].drop(torch.ones(count, dtype=torch.bool))
    assert not gone.tokens.any()
    assert not gone.mask.any()
    assert not gone.pooled.any()


def test_a_source_of_any_encoder_is_dropped_by_default() -> None:
    sources = ("t5", "clip_text", "clip_image", "my_text")
    assert dropout_of(sources, ["my_text"], None) == {"t5": 0.25, "clip_text": 0.2, "clip_image": 0.9, "my_text": 0.25}


def test_sources_are_dropped_in_training_and_kept_in_validation(shards: list[Shard]) -> None:
    learner, conds = stage(), []
    logged(learner)
    learner.dropout = {"t5": 1.0, "clip_text": 0.0, "clip_image": 0.0}
    learner.denoiser.register_forward_pre_hook(lambda module, args: conds.append(args[2].sources))
    with torch.no_grad():
        learner.training_step(a_batch(shards), 0)
        learner.validation_step(a_batch(shards), 0)
    assert [bool(sources["t5"].mask.any()) for sources in conds] == [False, True]
    assert conds[0]["clip_text"].mask.any()


def test_a_compiled_stage_trains_on_few_lengths_of_captions(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And validates on the captions as they are, without the compiler. The loss is the same."""
    learner, batch, lengths = stage(), a_batch(shards), []
    learner.denoiser.network.register_forward_pre_hook(
        lambda network, args: lengths.append(args[2].sources["t5"].tokens.shape[1])
    )
    plain = learner._losses(batch.images, batch.cond, Philox(0, range(8), "training"))[1]
    learner._compile = True
    padded = learner._losses(batch.images, batch.cond, Philox(0, range(8), "training"))[1]
    learner.eval()._losses(batch.images, batch.cond, Philox(0, range(8), "training"))
    own = batch.cond.sources["t5"].tokens.shape[1]
    assert lengths == [own, TOKENS, own]
    assert own < TOKENS
    torch.testing.assert_close(padded, plain)
    stances: list[str] = []
    monkeypatch.setattr(torch.compiler, "set_stance", stances.append)
    learner.on_validation_start()
    learner.on_validation_end()
    assert stances == ["force_eager", "default"]


def test_training_noise_is_log_normal() -> None:
    noise = LogNormal(-1.2, 1.2)
    drawn = noise.sample(200_000, torch.Generator().manual_seed(0)).log()
    assert drawn.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert drawn.std().item() == pytest.approx(1.2, abs=0.02)
    share = (drawn < noise.quantile(torch.tensor([0.25])).log()).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="std"):
        LogNormal(0, 0)


def test_low_resolution_is_told_how_noisy_it_is() -> None:
    images = torch.zeros(2000, 3, 16, 16)
    low_res, level = LowResolution(max_aug_level=0.4, degrade_probability=0)(images, torch.Generator().manual_seed(0))
    assert low_res.shape[-2:] == (4, 4)
    assert 0 <= level.min() < 0.01 < 0.39 < level.max() <= 0.4
    noisiest = level > 0.3
    assert low_res[noisiest].std().item() == pytest.approx(level[noisiest].square().mean().sqrt().item(), rel=0.03)
    still = torch.zeros(1, 3, 2, 2)
    assert torch.equal(augment(still, torch.zeros(1), torch.ones_like(still)), still)


def test_degradation_touches_the_share_asked_for() -> None:
    images = torch.rand(600, 3, 16, 16)
    low_res, _ = LowResolution(max_aug_level=0, degrade_probability=0.3)(images, torch.Generator().manual_seed(0))
    clean = torch.nn.functional.avg_pool2d(images, 4)
    changed = (low_res - clean).abs().flatten(1).amax(1) > 1e-6
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.06)


def test_low_resolution_pictures_that_the_data_brings_are_used() -> None:
    """As they come, noised by the stage; each from its own generator, so a batch is its samples."""
    images, given = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 4, 4)
    still = LowResolution(max_aug_level=0)
    low_res, level = low_resolution(still, images, given, Philox(0, range(4)))
    assert torch.equal(low_res, given)
    assert not level.any()
    noisy = LowResolution(max_aug_level=0.4)
    for some in (given, None):
        low_res, level = low_resolution(noisy, images, some, Philox(0, range(4)))
        last, last_level = low_resolution(noisy, images[3:], None if some is None else some[3:], Philox(0, [3]))
        torch.testing.assert_close(low_res[3:], last)
        assert torch.equal(level[3:], last_level)
    flat = torch.zeros(500, 3, 4, 4)
    low_res, level = low_resolution(noisy, torch.zeros(500, 3, 16, 16), flat, Philox(0, range(500)))
    assert level.mean().item() == pytest.approx(0.2, abs=0.02)
    assert level.max() <= 0.4
    assert low_res.flatten(1).std(1).div(level).mean().item() == pytest.approx(1, abs=0.05), (
        "the noise is of that level"
    )
    with pytest.raises(ValueError, match=r"has low-resolution images of 2x2, and the stage enlarges 4x4 \(scale 4"):
        low_resolution(noisy, images, given[..., :2, :2], Philox(0, range(4)))
    with pytest.raises(ValueError, match="the stage has no low_res that says how noisy"):
        low_resolution(None, images, given, Philox(0, range(4)))


def test_a_stage_trains_on_the_low_resolution_pictures_of_its_data(shards: list[Shard]) -> None:
    """What the denoiser is told is what the data brought, not what the stage would have made."""
    learner, told = stage(LowResolution(max_aug_level=0)), []
    learner.log = lambda *args, **kwargs: None
    learner.denoiser.register_forward_pre_hook(lambda module, args: told.append(args[2].low_res))
    batch = a_batch(shards, 32)
    given = torch.rand(8, 3, 8, 8)
    learner.training_step(replace(batch, cond=replace(batch.cond, low_res=given)), 0)
    assert torch.equal(told[0], given)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": 1}, "scale"), ({"max_blur": -1.0}, "max_blur"), ({"degrade_probability": 2.0}, "degrade_probability")],
)
def test_bad_degradations_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowResolution(**options)


def test_noise_is_a_sample_s_own(shards: list[Shard]) -> None:
    """A function of the position in the run: two batches of 4 draw what one of 8 draws, and no two samples the same."""
    learner, whole = stage(), a_batch(shards)
    whole = replace(whole, index=3)

    def drawn(learner: DiffusionStage, batch: Batch, purpose: str = "training") -> list[list[int]]:
        return learner._randomness(batch, purpose).integers(4).tolist()

    halves = [replace(whole, images=whole.images[:4], index=index) for index in (6, 7)]
    of_whole, (first, second) = drawn(learner, whole), [drawn(learner, half) for half in halves]
    assert of_whole == first + second
    other = stage()
    other.seed = 1
    apart = [*of_whole, *drawn(learner, whole, "validation"), *drawn(other, whole)]
    assert len({tuple(row) for row in apart}) == 3 * 8
    assert drawn(learner, whole, "validation") == drawn(other, whole, "validation"), "so that losses can be compared"
    for processes in (2, 4):
        ranks = []
        for rank in range(processes):
            learner._trainer = SimpleNamespace(world_size=processes, global_rank=rank)
            ranks += drawn(learner, replace(whole, images=whole.images[: 8 // processes]))
        assert of_whole == ranks, f"{processes} processes, each with its part of the batch"


@torch.no_grad()
def test_a_step_of_a_batch_is_the_steps_of_its_samples(shards: list[Shard]) -> None:
    """Dropped sources, noise levels, low-resolution images and noise, bit for bit."""
    learner, batch, calls = stage(LowResolution()), a_batch(shards), []
    logged(learner)
    learner.denoiser.register_forward_pre_hook(lambda module, args: calls.append(args))
    learner.training_step(batch, 0)
    for k in range(8):
        parts = {name: getattr(batch, name)[k : k + 1] for name in ("images", "cond", "keys", "captions")}
        learner.training_step(replace(batch, index=8 * batch.index + k, **parts), 0)
    whole, *alone = calls
    for k, (x, sigma, cond) in enumerate(alone):
        assert torch.equal(x[0], whole[0][k])
        assert torch.equal(sigma[0], whole[1][k])
        assert torch.equal(cond.low_res[0], whole[2].low_res[k])
        assert torch.equal(cond.aug_level[0], whole[2].aug_level[k])
        for name, source in cond.sources.items():
            assert torch.equal(source.mask[0], whole[2].sources[name].mask[k])


def test_validation_batches_are_the_same_each_time(shard_folder: Path) -> None:
    data = ShardData(shard_folder, shard_folder, 16, batch_size=4, val_batches=3)
    first, second = ([b.keys for b in itertools.islice(data.val_dataloader(), 9)] for _ in range(2))
    assert first == second
    assert len(first) == 3


@pytest.mark.parametrize("given", [True, False])
def test_a_grid_shows_the_low_resolution_images_of_the_batch(given: bool) -> None:
    """Those of `data.degradation`; without it, averages."""
    denoiser = denoisers.create("efficient_toybox64", channels=24, head_channels=8, num_res_blocks=(1, 1, 1))
    images, low_res = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 4, 4)
    cond = Conditioning().with_low_res(low_res, torch.zeros(2)) if given else Conditioning()
    grid = SampleGrid(Sampling("euler", num_inference_steps=1), num_images=1)
    _, shown, _ = grid._rows(DiffusionStage(denoiser, low_res=LowResolution(4)), Batch(images, cond, [], [], 0))
    wanted = low_res if given else torch.nn.functional.avg_pool2d(images, 4)
    torch.testing.assert_close(shown, upsample(wanted[:1], (16, 16)))
