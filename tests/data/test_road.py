"""The whole road: shards as img2dataset writes them, at several sizes, to a picture of a cascade trained on them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ediffi.cli import main
from ediffi.cli.recipes import path_of
from ediffi.data.index import Index
from ediffi.data.shards import decode, read_shard
from ediffi.hub.models import SHIPPED
from tests.data import img2dataset

SIZES = (48, 80, 96, 160)
"""Of the pictures of a shard, in turn; the first are too small for 64²."""
SHARDS, SAMPLES = 8, 12
KEEP = {"short_side_above": 64, "alignment": 0.25, "aesthetic": 3.5}


def write_raw(folder: Path) -> list[dict[str, Any]]:
    """Shards of one size each, in which the last picture of each is that of the one before; what the samples tell."""
    folder.mkdir()
    told: list[dict[str, Any]] = []
    for shard in range(SHARDS):
        rows = [img2dataset.sample(shard, row, SIZES[shard % len(SIZES)]) for row in range(SAMPLES)]
        rows[-1]["jpg"] = rows[-2]["jpg"]
        told += [{**yaml.safe_load(row["json"]), "jpg": row["jpg"]} for row in rows]
        img2dataset.write_rows(folder / f"{shard:05d}.tar", rows)
    return told


def wanted(told: list[dict[str, Any]]) -> list[str]:
    """The keys that are to be kept, said once more in plain words."""
    kept: dict[bytes, str] = {}
    for row in told:
        fits = row["similarity"] >= KEEP["alignment"] and row["AESTHETIC_SCORE"] >= KEEP["aesthetic"]
        if fits and min(row["width"], row["height"]) > KEEP["short_side_above"]:
            kept.setdefault(row["jpg"], row["key"])
    return sorted(kept.values())


def fit(recipe: str, data: Path, folder: Path, **settings: Any) -> None:
    """Train two steps of a shipped recipe on the data."""
    config = yaml.safe_load(path_of(f"toybox/{recipe}").read_text())
    config["data"] |= {"train": str(data), "val": str(data), "batch_size": 4, "val_batches": 1, **settings}
    trainer = config["trainer"]
    trainer |= {"max_steps": 2, "val_check_interval": 2, "accelerator": "cpu", "enable_progress_bar": False}
    trainer |= {"default_root_dir": str(folder / recipe)}
    place = str(folder / recipe / "checkpoints")
    trainer["callbacks"][1]["init_args"] |= {"dirpath": place, "every_n_train_steps": 2}
    trainer["callbacks"][2]["init_args"]["sampling"]["num_inference_steps"] = 2
    path = folder / f"{recipe}.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0


def test_raw_shards_become_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = write_raw(tmp_path / "raw")
    Path("filter.yaml").write_text(yaml.safe_dump({"keep": {**KEEP, "unique": True}}))
    shards = f"raw/{{00000..{SHARDS - 1:05d}}}.tar"
    assert main(["data", "filter", shards, "--config", "filter.yaml", "--output", "filtered", "--no-page"]) == 0
    assert main(["embed", "--shards", "filtered", "--out", "embedded", "--encoders", "toybox"]) == 0
    samples = [decode(raw) for shard in Index.read("embedded").shards for raw in read_shard(shard.url)]
    assert sorted(sample.key for sample in samples) == wanted(told)
    sources = {name.partition(".")[0] for sample in samples for name in sample.embeddings}
    assert sources == {"t5", "clip_text", "clip_image"}

    fit("base", Path("embedded"), tmp_path)
    fit("sr64", Path("embedded"), tmp_path, degradation={"scale": 4, "strength": 1.0})
    config = yaml.safe_load(path_of("toybox/cascade").read_text())
    config["encoder_files"] = str(SHIPPED / "toybox" / "encoders")
    config["stages"] = config["stages"][:2]
    for entry in config["stages"]:
        entry["run"] = str(tmp_path / entry["name"])
        entry["sampling"]["num_inference_steps"] = 2
    Path("cascade.yaml").write_text(yaml.safe_dump(config))
    assert main(["compose", "--config", "cascade.yaml", "--output", "model"]) == 0
    assert main(["sample", "a red circle", "--model", "model", "-o", "picture.png"]) == 0
    with Image.open("picture.png") as picture:
        assert picture.size == (64, 64)
        assert len(set(picture.getdata())) > 100
