"""Samples that cannot be trained on: named, counted, replaced, and too many refused; `verify` finds them all."""

import io
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from ediffi import cli
from ediffi.data.index import INDEX, Index, write_index
from ediffi.data.module import ShardData
from ediffi.data.shards import write_tar
from ediffi.data.skipped import EVERY, SkippedSamples
from ediffi.data.stream import Batch, ImageTransform, ShardStream
from ediffi.registry.types import Conditioning

ENCODERS = {"t5": {"name": "t5", "width": 4, "pooled_width": None}}


def raw(row: int, **changes: Any) -> dict[str, Any]:
    """A sample that can be trained on, but for what is changed; None leaves a member out."""
    image = io.BytesIO()
    Image.new("RGB", (16, 16), (row, 0, 0)).save(image, "png")
    tokens = save({"t5.tokens": torch.ones(2, 4)})
    sample = {"__key__": f"k{row}", "png": image.getvalue(), "txt": b"a square", "safetensors": tokens, **changes}
    return {name: value for name, value in sample.items() if value is not None}


def picture(side: int) -> bytes:
    image = io.BytesIO()
    Image.new("RGB", (side, side)).save(image, "png")
    return image.getvalue()


BROKEN = {
    "cut off": {"png": picture(64)[:-20]},
    "no image": {"png": b"no image"},
    "small": {"png": picture(12)},
    "no embeddings": {"safetensors": None},
    "one source less": {"safetensors": save({"clip.tokens": torch.ones(1, 4)})},
    "another width": {"safetensors": save({"t5.tokens": torch.ones(2, 5)})},
    "broken embeddings": {"safetensors": b"{}"},
    "caption": {"txt": b"\xff"},
    "metadata": {"json": b"[" * 1000},
}


def folder_of(folder: Path, rows: list[dict[str, Any]], facts: bool = True) -> Path:
    """Two shards of the samples, and their index; without `facts` an old one that has no sizes of images."""
    folder.mkdir(exist_ok=True)
    half, entries = len(rows) // 2, []
    for number, some in enumerate((rows[:half], rows[half:])):
        entry = {"file": f"{number}.tar", **write_tar(folder / f"{number}.tar", some)}
        entries.append({k: v for k, v in entry.items() if facts or k not in ("sides", "smallest", "transparent")})
    write_index(folder / INDEX, entries, {"encoders": ENCODERS, "dtype": "float32"})
    return folder


def stream(folder: Path, **options: Any) -> ShardStream:
    return ShardStream(Index.read(folder).shards, ImageTransform(16), **{"batch_size": 4, "seed": 1, **options})


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("facts", [True, False])
def test_one_broken_sample_is_replaced_and_verify_names_it(
    kind: str, facts: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its neighbour in the order; what the index knows does not come at all."""
    folder = folder_of(tmp_path, [raw(row, **(BROKEN[kind] if row == 5 else {})) for row in range(16)], facts)
    epoch = list(islice(stream(folder, least_side=16), 4))
    keys = [key for batch in epoch for key in batch.keys]
    told = [sentence for batch in epoch for sentence in batch.skipped]
    assert "k5" not in keys
    assert len(keys) == 16
    if facts and kind in ("no image", "small"):
        assert not told
    else:
        (sentence,) = told
        assert "sample 'k5'" in sentence
        assert "0.tar" in sentence
    code = cli.main(["data", "verify", str(folder), "--image-size", "16"])
    assert code == 1
    assert "'k5'" in (printed := capsys.readouterr()).out + printed.err


def test_the_replacement_is_that_of_the_position(tmp_path: Path) -> None:
    """In any batch size, on any number of processes, and when the run is resumed."""
    rows = [raw(row, **(BROKEN["cut off"] if row in (3, 4, 9) else {})) for row in range(16)]
    folder = folder_of(tmp_path, rows)
    whole = [key for batch in islice(stream(folder), 8) for key in batch.keys]
    assert [key for batch in islice(stream(folder, batch_size=2, start=3), 13) for key in batch.keys] == whole[6:]
    ranks = [list(islice(stream(folder, batch_size=2, rank=rank, world_size=2), 8)) for rank in (0, 1)]
    assert [key for pair in zip(*ranks, strict=True) for batch in pair for key in batch.keys] == whole


def test_a_shard_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [raw(row, **BROKEN["caption"]) for row in range(4)])
    with pytest.raises(ValueError, match=r"sample 'k\d' of .*\.tar .* not UTF-8; nor can any other of this shard"):
        next(iter(stream(folder)))


class Reads(L.LightningModule):
    """Trains nothing, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.read = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.read += batch.keys
        return 0 * self.weight

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.read += batch.keys

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, steps: int) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        max_steps=steps, default_root_dir=folder, accelerator="cpu", num_sanity_val_steps=0, limit_val_batches=0,
        enable_model_summary=False, barebones=False, **quiet,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*`IterableDataset` has `__len__`.*")
def test_a_run_goes_on_up_to_its_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of 16 is 6.25 %: with 7 % the run trains and names it once, with 6 % it ends and says why."""
    folder = folder_of(tmp_path / "data", [raw(row, **(BROKEN["cut off"] if row == 5 else {})) for row in range(16)])
    data = {"train": folder, "val": folder, "image_size": 16, "batch_size": 4}
    module = Reads()
    trainer(tmp_path, 8).fit(module, ShardData(**data, max_skipped=0.07))
    assert len(module.read) == 32
    assert "k5" not in module.read
    assert caplog.text.count("sample 'k5' of ") == 1
    for few in ({"max_skipped": 0.06}, {}):
        with pytest.raises(
            ValueError, match=r"1 of 16 samples cannot .* allows [\d.]+ of all .*sample 'k5' of .*0.tar"
        ):
            trainer(tmp_path, 8).fit(Reads(), ShardData(**data, **few))
    with pytest.raises(ValueError, match=r"max_skipped must be in \[0, 1\], got 2"):
        ShardData(**data, max_skipped=2)


def test_what_the_index_knows_counts_before_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = {3: BROKEN["small"], 5: BROKEN["no image"]}
    folder = folder_of(tmp_path, [raw(row, **broken.get(row, {})) for row in range(16)])
    for options, fits in (({"max_skipped": 0.13}, True), ({"max_skipped": 0.12}, False), ({}, False)):
        data = ShardData(folder, folder, 16, **options)
        if fits:
            data.setup("validate")
            assert "1 of 16 images cannot be read, one is that of sample 'k5'" in caplog.text
        else:
            with pytest.raises(ValueError, match=r"data.max_skipped allows [\d.]+ of all"):
                data.setup("validate")
    ShardData(folder, folder, 16, max_skipped=0.07, skip_small=True).setup("validate")
    with pytest.raises(ValueError, match="1 of 16 images cannot be read"):
        ShardData(folder, folder, 16, max_skipped=0.06, skip_small=True).setup("validate")


def batch(index: int, skipped: int) -> Batch:
    told = tuple(f"sample 'k{index}-{row}'" for row in range(skipped))
    return Batch(torch.zeros(4, 3, 2, 2), Conditioning({}), [""] * 4, [""] * 4, index, told)


def test_processes_add_up_what_they_skip() -> None:
    """One of two has skipped none, the other 20 of 200: of the four epochs of both, 5 %."""
    for allowed, fits in ((0.06, True), (0.04, False)):
        count = SkippedSamples(allowed, samples=100)
        for index in range(EVERY - 1):
            count.add(batch(index, 0), 2, lambda count: 20)
        if fits:
            count.add(batch(EVERY - 1, 0), 2, lambda count: 20)
        else:
            with pytest.raises(ValueError, match="20 of 400 samples"):
                count.add(batch(EVERY - 1, 0), 2, lambda count: 20)


def test_each_validation_counts_anew() -> None:
    count = SkippedSamples(0.1, samples=12)
    for _ in range(50):
        count.add(batch(0, 1), 1, int)
        count.add(batch(1, 0), 1, int)
    with pytest.raises(ValueError, match="2 of 12 samples"):
        count.add(batch(2, 1), 1, int)


def test_a_sample_of_every_epoch_counts_once_an_epoch() -> None:
    """One of 12, wherever it stands in the epochs, and wherever in one the run is resumed: 8.3 %, never more."""
    for start in range(6):
        for places in ((0, 0, 0), (2, 0, 2), (0, 2, 0), (2, 0, 1)):
            count = SkippedSamples(0.084, samples=12)
            for index in range(start, 9):
                count.add(batch(index, int(places[index // 3] == index % 3)), 1, int)
