"""Filters: what is measured, what is kept, and that neither order nor restarts nor processes change it."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ediffi.cli.data import filter as filter_command
from ediffi.cli.parser import run as run_command
from ediffi.cli.recipes import path_of
from ediffi.data.filtering.filters import DUPLICATE, FilterRun, Keep, read_recipe
from ediffi.data.filtering.measure import Measures, measure
from ediffi.data.filtering.page import write_page
from ediffi.data.filtering.report import EDGES, FilterReport
from ediffi.data.filtering.scorer import HIDDEN, LAYERS, AestheticHead, Scorer, ScoreSettings, load_head
from ediffi.data.index import Index
from ediffi.evaluation.datasets.toybox import caption, render, sample_scene
from ediffi.hub.config import Part
from ediffi.hub.models import SHIPPED
from ediffi.io.distributed import DistributedContext
from ediffi.io.images import to_tensor
from ediffi.registry import encoders

CLIP = str(SHIPPED / "toybox" / "encoders" / "clip")
WITH_CLIP = {"clip_image": Part("clip_image", {"path": CLIP}), "clip_text": Part("clip_text", {"path": CLIP})}
ALIGNED = Keep(alignment=0.1)
ALONE = DistributedContext()


def picture(seed: int, size: tuple[int, int] = (80, 80), suffix: str = "jpeg") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(written, suffix, quality=95)
    return written.getvalue()


def sample(key: str, data: bytes, caption: str | None = "a caption", **metadata: Any) -> dict[str, Any]:
    told = {"key": key, "status": "success", "caption": caption, **metadata}
    members = {"jpg": data, "json": json.dumps(told).encode()}
    return {"__key__": key, **members} | ({} if caption is None else {"txt": caption.encode()})


def write(path: Path, samples: Sequence[dict[str, Any]]) -> str:
    """A tar as img2dataset writes it: jpg, json, txt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for one in samples:
            for suffix, data in one.items():
                if suffix != "__key__":
                    info = tarfile.TarInfo(f"{one['__key__']}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(path)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar.getmembers()}


def files(folder: Path) -> dict[str, str]:
    """What a finished filter has to have, by name: the hashes of its files. Order and restarts must not show."""
    made = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".png"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}


@pytest.fixture
def raw(tmp_path: Path) -> list[str]:
    """Three shards of twelve samples with duplicates within and across them; some fail other tests."""
    shards = []
    for number in range(3):
        samples = []
        for row in range(12):
            seed = (number * 12 + row) % 28  # pictures 0 to 7 are there twice
            caption = None if (number, row) == (0, 3) else f"number {seed}"
            samples.append(sample(f"{number:05d}{row:04d}", picture(seed), caption, similarity=0.02 * seed))
        shards.append(write(tmp_path / "raw" / f"{number:05d}.tar", samples))
    return shards


@pytest.fixture
def job(tmp_path: Path, raw: list[str]) -> Callable[..., FilterRun]:
    def make(name: str = "out", keep: Keep = ALIGNED, shards: list[str] | None = None, **options: Any) -> FilterRun:
        output = tmp_path / name
        measures = options.pop("measures", output / "measures")
        return FilterRun(shards or raw, output, measures, ScoreSettings(**options), keep)

    return make


# What is kept


def test_what_is_kept_is_as_it_came(job: Callable[..., FilterRun], raw: list[str]) -> None:
    total = job().run(ALONE)
    before = {name: data for shard in raw for name, data in members(Path(shard)).items()}
    after = {name: data for shard in Index.read(job().output).shards for name, data in members(shard.path).items()}
    assert all(before[name] == data for name, data in after.items())
    assert total.kept == sum(name.endswith(".jpg") for name in after) == 23
    assert not list(job().output.rglob("*.tmp"))


def test_counts_by_reason_add_up(job: Callable[..., FilterRun]) -> None:
    total = job().run(ALONE)
    assert total.samples == 36
    assert total.dropped == {"alignment below 0.1": 9, DUPLICATE: 3, "no caption": 1}
    assert total.kept + sum(total.dropped.values()) == total.samples
    for name, values in (("short_side", 36), ("alignment", 36), ("aesthetic", 0)):
        assert sum(total.scores[name]["kept"]) + sum(total.scores[name]["dropped"]) == values
    assert sum(total.scores["alignment"]["kept"]) == total.kept
    reports = [FilterReport.read(job().output / f"{name}.report.json") for name in job().by_name]
    assert [report.samples for report in reports] == [12, 12, 12]
    assert [report.shard["samples"] for report in reports] == [
        shard.samples for shard in Index.read(job().output).shards
    ]


@pytest.mark.parametrize(("size", "kept"), [((64, 90), False), ((90, 65), True), ((65, 65), True), ((1, 300), False)])
def test_the_shortest_side_is_strictly_longer(tmp_path: Path, size: tuple[int, int], kept: bool) -> None:
    shard = write(tmp_path / "a.tar", [sample("0", picture(0, size)), sample("1", picture(1, (70, 70)))])
    found = measure(shard, ScoreSettings(), Scorer(ScoreSettings()))
    assert found.sizes[0] == list(size)
    assert Keep(short_side_above=64).judge(found) == [None if kept else "short side at most 64", None]


def test_what_is_broken_is_dropped_and_stops_nothing(tmp_path: Path) -> None:
    good = picture(0)
    samples = [
        sample("0", good),
        sample("1", good[: len(good) // 2]),
        sample("2", b"GIF89a, or not"),
        sample("3", good) | {"json": b"{"},
        sample("4", good) | {"txt": b"\xff\xfe"},
        sample("5", good, "  \n"),
        sample("6", good, similarity="high"),
        sample("7", good, similarity=float("nan")),
    ]
    found = measure(write(tmp_path / "a.tar", samples), ScoreSettings(), Scorer(ScoreSettings()))
    verdicts = Keep(alignment=0.1).judge(found)
    broken = ["broken image", "broken image", "broken caption or JSON", "broken caption or JSON"]
    assert verdicts == ["no alignment score", *broken, "no caption", "no alignment score", "no alignment score"]
    assert Keep(caption=False).judge(found)[5] is None


def test_a_cut_shard_and_foreign_members_are_noted(tmp_path: Path, job: Callable[..., FilterRun]) -> None:
    canary = tmp_path / "canary"
    samples = [sample(str(row), picture(row)) for row in range(12)]
    samples[0]["pkl"] = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    shard = Path(write(tmp_path / "a.tar", samples))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    total = job("cut", Keep(), [str(shard)]).run(ALONE)
    assert 0 < total.kept < 12
    assert any("broken shard" in notice and "a.tar" in notice for notice in total.notices())
    assert any("pkl" in notice for notice in total.notices())
    assert not canary.exists()


# Duplicates


def test_of_duplicates_the_first_that_passes_is_kept(tmp_path: Path, job: Callable[..., FilterRun]) -> None:
    data = picture(0)
    shards = [
        write(tmp_path / "a.tar", [sample("0", data, similarity=0.0), sample("1", picture(1), similarity=0.5)]),
        write(tmp_path / "b.tar", [sample("2", data, similarity=0.5), sample("3", data, similarity=0.9)]),
    ]
    made = job("unique", Keep(alignment=0.3), shards)
    made.run(ALONE)
    kept = {name.partition(".")[0] for shard in Index.read(made.output).shards for name in members(shard.path)}
    assert kept == {"1", "2"}


def test_neither_order_nor_restarts_nor_processes_change_what_is_kept(
    job: Callable[..., FilterRun], raw: list[str]
) -> None:
    once = job("once")
    once.run(ALONE)
    wanted = files(once.output)
    assert {"index.json", "filter.json", "00000.tar", "00002.report.json"} <= wanted.keys()

    turned = job("turned", shards=raw[::-1])
    turned.run(ALONE)
    assert files(turned.output) == wanted

    cut = job("cut")
    cut.run(ALONE)
    for name in ("00000.report.json", "00002.report.json", "00002.tar", "index.json", "measures/00001.json"):
        (cut.output / name).unlink()
    (cut.output / "00001.tar.tmp").write_bytes(b"half")
    (cut.output / "00001.report.json").unlink()
    cut.run(ALONE)
    assert {name: digest for name, digest in files(cut.output).items() if name != "00001.tar.tmp"} == wanted

    together = job("together")
    together_run(together, 2)
    assert files(together.output) == wanted


def together_run(made: FilterRun, count: int) -> None:
    """The job by several processes, here threads that wait for each other."""
    barrier, failed = threading.Barrier(count), []

    def gather(value: Any) -> list[Any]:
        barrier.wait(30)
        return [value] * count

    def work(rank: int) -> None:
        try:
            made.run(DistributedContext(rank, count, "cpu", gather))
        except Exception as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_what_is_finished_is_left_as_it_is(job: Callable[..., FilterRun]) -> None:
    job().run(ALONE)
    tars = [path for path in job().output.rglob("*") if path.is_file() and path.suffix != ".json"]
    measures = list((job().output / "measures").iterdir())
    before = [path.stat().st_mtime_ns for path in (*tars, *measures)]
    job().run(ALONE)
    assert [path.stat().st_mtime_ns for path in (*tars, *measures)] == before


def test_measures_serve_other_thresholds(tmp_path: Path, job: Callable[..., FilterRun]) -> None:
    shared = tmp_path / "measures"
    job("one", measures=shared).run(ALONE)
    before = [path.stat().st_mtime_ns for path in shared.iterdir()]
    loose = job("two", Keep(), measures=shared).run(ALONE)
    assert [path.stat().st_mtime_ns for path in shared.iterdir()] == before
    assert loose.kept == 28


def test_perceptual_hashes_find_copies(tmp_path: Path, job: Callable[..., FilterRun]) -> None:
    pytest.importorskip("imagehash")
    original, copy = picture(0, (240, 200)), io.BytesIO()
    Image.open(io.BytesIO(original)).resize((120, 100), Image.Resampling.BICUBIC).save(copy, "jpeg", quality=75)
    shard = write(tmp_path / "a.tar", [sample("0", original), sample("1", copy.getvalue()), sample("2", picture(1))])
    assert job("bytes", Keep(), [shard]).run(ALONE).kept == 3
    assert job("perceptual", Keep(), [shard], hash="perceptual").run(ALONE).dropped == {DUPLICATE: 1}


def test_perceptual_hashes_need_captions_that_agree(tmp_path: Path, job: Callable[..., FilterRun]) -> None:
    """One pHash, as that of drawings that differ in colour only: the captions tell them apart, by their words."""
    pytest.importorskip("imagehash")
    captions = ["a brown square", "a red square", "A red  square!", "a \uff52ed square"]
    rows = []
    for row, text in enumerate(captions):
        data = io.BytesIO()
        Image.open(io.BytesIO(picture(0))).save(data, "png", compress_level=row + 1)  # other bytes
        rows.append(sample(str(row), data.getvalue(), text))
    made = job("perceptual", Keep(), [write(tmp_path / "a.tar", rows)], hash="perceptual")
    assert made.run(ALONE).dropped == {DUPLICATE: 2}
    assert {name.partition(".")[0] for name in members(made.output / "a.tar")} == {"0", "1"}


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, job: Callable[..., FilterRun], raw: list[str]) -> None:
    job("once").run(ALONE)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("keep: {alignment: 0.1}\n")
    code = "import sys; from ediffi import cli; cli.main(['data', 'filter', *sys.argv[1:]])"
    command = [sys.executable, "-c", code, str(tmp_path / "raw"), "--config", str(recipe), "--no-page", "-o"]
    output, rng = tmp_path / "killed", np.random.default_rng(0)
    for _ in range(8):
        process = subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        while not (output / "measures").is_dir() and process.poll() is None and time.monotonic() - began < 60:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(output)], check=True, capture_output=True)
    wanted, got = files(tmp_path / "once"), files(output)
    assert {name: digest for name, digest in got.items() if not name.endswith(".tmp")} == wanted


# Scores


@pytest.fixture(scope="module")
def scenes() -> list[tuple[bytes, str]]:
    rng, made = np.random.default_rng(0), []
    for size in (64, 96):
        scene = sample_scene(rng)
        written = io.BytesIO()
        Image.fromarray(render(scene, size)).save(written, "png")
        made.append((written.getvalue(), caption(scene, rng).text))
    return made


@pytest.fixture(scope="module")
def head(new_folder: Callable[[str], Path]) -> Path:
    width = encoders.create("clip_image", path=CLIP).width
    path = new_folder("head") / "linear.safetensors"
    save_file({"weight": torch.randn(1, width), "bias": torch.tensor([5.0])}, path)
    return path


def test_scores_are_those_of_the_encoders(tmp_path: Path, scenes: list[tuple[bytes, str]], head: Path) -> None:
    samples = [{"__key__": str(row), "png": data, "txt": text.encode()} for row, (data, text) in enumerate(scenes)]
    samples += [
        {"__key__": "2", "png": scenes[0][0], "txt": scenes[1][1].encode()},
        {"__key__": "3", "png": scenes[0][0]},
    ]
    measuring = ScoreSettings(**WITH_CLIP, aesthetic=AestheticHead(str(head)), batch_size=3)
    found = measure(write(tmp_path / "a.tar", samples), measuring, Scorer(measuring))

    image, text = (encoders.create(name, path=CLIP) for name in ("clip_image", "clip_text"))
    small = to_tensor(Image.open(io.BytesIO(scenes[0][0])), 64)[None]
    seen, read = image(small).pooled[0], text([scenes[0][1], scenes[1][1]]).pooled
    assert found.alignment[0] == pytest.approx(float(seen @ read[0]), abs=0.03)
    assert found.alignment[2] == pytest.approx(float(seen @ read[1]), abs=0.03)
    assert found.alignment[0] > found.alignment[2]
    assert found.alignment[3] is None
    assert round(found.alignment[0], 6) == found.alignment[0] != round(found.alignment[0], 3)
    assert found.aesthetic[0] == pytest.approx(float(load_head(head)(seen)), abs=0.3)
    assert found.aesthetic[3] == found.aesthetic[0]
    assert found.computed == {"alignment": 3, "aesthetic": 4}


def test_what_the_shards_tell_is_believed_unless_told_otherwise(
    tmp_path: Path, scenes: list[tuple[bytes, str]]
) -> None:
    told = sample("0", scenes[0][0], scenes[0][1], similarity=0.123, AESTHETIC_SCORE=6)
    half = sample("2", scenes[0][0], scenes[0][1], similarity=0.321)
    shard = write(tmp_path / "a.tar", [told, sample("1", scenes[1][0], scenes[1][1]), half])
    measuring = ScoreSettings(**WITH_CLIP)
    found = measure(shard, measuring, Scorer(measuring))
    assert (found.alignment[0], found.alignment[2], found.aesthetic) == (0.123, 0.321, [6.0, None, None])
    assert found.told == {"alignment": 2, "aesthetic": 1}
    measured = ScoreSettings(**WITH_CLIP, similarity=None)
    assert measure(shard, measured, Scorer(measured)).alignment[0] != 0.123
    total = FilterReport.of(found, [None, None, None], None)
    assert any("2 alignment scores come from the metadata and 1 were computed" in notice for notice in total.notices())


def test_a_score_does_not_depend_on_its_neighbours(tmp_path: Path, scenes: list[tuple[bytes, str]]) -> None:
    samples = [sample(str(row), *scenes[row % 2]) for row in range(5)]
    shard = write(tmp_path / "a.tar", samples)
    alone, together = (
        measure(shard, measuring, Scorer(measuring)).alignment
        for measuring in (ScoreSettings(**WITH_CLIP, batch_size=1), ScoreSettings(**WITH_CLIP, batch_size=4))
    )
    assert alone == pytest.approx(together, abs=2e-6)


# Aesthetic heads


def layered(width: int) -> dict[str, torch.Tensor]:
    sizes = [width, *HIDDEN, 1]
    tensors = {}
    for place, incoming, outgoing in zip(LAYERS, sizes, sizes[1:], strict=False):
        tensors[f"layers.{place}.weight"] = torch.randn(outgoing, incoming) / incoming**0.5
        tensors[f"layers.{place}.bias"] = torch.randn(outgoing)
    return tensors


def test_a_linear_head_is_a_dot_product(head: Path) -> None:
    made = load_head(head)
    x = torch.randn(3, made[0].in_features)
    torch.testing.assert_close(made(x), x @ made[0].weight.T + 5)


@pytest.mark.parametrize("prefix", ["layers.", ""])
def test_a_layered_head_is_a_product_of_matrices(tmp_path: Path, prefix: str) -> None:
    tensors = layered(768)
    save_file(
        {prefix + name.removeprefix("layers."): tensor for name, tensor in tensors.items()},
        tmp_path / "model.safetensors",
    )
    x = wanted = torch.nn.functional.normalize(torch.randn(4, 768), dim=-1)
    for place in LAYERS:
        wanted = wanted @ tensors[f"layers.{place}.weight"].T + tensors[f"layers.{place}.bias"]
    torch.testing.assert_close(load_head(tmp_path)(x), wanted)
    assert load_head(tmp_path)(x).shape == (4, 1)


def test_wrong_heads_are_named(tmp_path: Path) -> None:
    pickle = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save({"weight": torch.zeros(1, 8)}, pickle)
    with pytest.raises(ValueError, match=r"linearMSE.pth is a pickle.*convert it once.*save_file"):
        load_head(pickle)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.safetensors"):
        load_head(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="could not load the aesthetic head 'some-body/some-head'"):
        load_head("some-body/some-head")
    wrong = {
        "three.safetensors": {"weight": torch.zeros(3, 8), "bias": torch.zeros(3)},
        "conv.safetensors": {"weight": torch.zeros(1, 8, 1, 1), "bias": torch.zeros(1)},
        "lacks.safetensors": {k: v for k, v in layered(8).items() if k != "layers.7.bias"},
        "narrow.safetensors": layered(8) | {"layers.4.weight": torch.zeros(64, 100)},
        "relu.safetensors": {"0.weight": torch.zeros(1024, 8), "3.weight": torch.zeros(128, 1024)},
    }
    for name, tensors in wrong.items():
        save_file(tensors, tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} holds no aesthetic head: expected weight"):
            load_head(tmp_path / name)
    save_file({"weight": torch.full((1, 8), torch.nan), "bias": torch.zeros(1)}, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        load_head(tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "nan.safetensors").read_bytes()[:20])
    with pytest.raises(ValueError, match="truncated"):
        load_head(tmp_path / "cut.safetensors")


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "l14.safetensors")
    with pytest.raises(ValueError, match="the aesthetic head reads embeddings of width 768, clip_image makes"):
        Scorer(
            ScoreSettings(
                clip_image=WITH_CLIP["clip_image"], aesthetic=AestheticHead(str(tmp_path / "l14.safetensors"))
            )
        )
    with pytest.raises(ValueError, match="clip_image must be an encoder that reads images"):
        Scorer(ScoreSettings(clip_image=WITH_CLIP["clip_text"]))
    with pytest.raises(ValueError, match="aesthetic needs a clip_image"):
        ScoreSettings(aesthetic=AestheticHead("x.safetensors"))


# Bad input


def test_bad_jobs_are_named(tmp_path: Path, raw: list[str], job: Callable[..., FilterRun]) -> None:
    with pytest.raises(ValueError, match="1 of the shards have the file name of another"):
        job(shards=[*raw, write(tmp_path / "other" / "00001.tar", [sample("x", picture(0))])])
    with pytest.raises(
        ValueError, match=r"keep\.alignment is a threshold on a score that is neither computed nor in the metadata"
    ):
        job(similarity=None)
    with pytest.raises(ValueError, match="nothing is left of 3 shards"):
        job("none", Keep(short_side_above=1000)).run(ALONE)
    for bad in ({"short_side_above": -1}, {"alignment": 25.0}, {"aesthetic": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Keep(**bad)


def test_folders_of_other_settings_are_refused(tmp_path: Path, job: Callable[..., FilterRun]) -> None:
    job().run(ALONE)
    with pytest.raises(ValueError, match="out holds a filter of other shards or settings"):
        job(keep=Keep(alignment=0.2)).run(ALONE)
    with pytest.raises(ValueError, match="measures holds measures of other shards or settings"):
        job("new", measures=job().measures, hash="perceptual").run(ALONE)


def test_a_shard_that_changed_is_named(job: Callable[..., FilterRun], raw: list[str]) -> None:
    job().run(ALONE)
    for name in ("00001.report.json", "00001.tar"):
        (job().output / name).unlink()
    write(Path(raw[1]), [sample(f"00001{row:04d}", picture(50 + row)) for row in range(12)])
    with pytest.raises(ValueError, match=r"00001.tar changed since it was measured"):
        job().run(ALONE)
    assert not (job().output / "00001.tar").exists()


def test_broken_notes_are_named(tmp_path: Path) -> None:
    for content in (
        b"{",
        b"[]",
        b'{"format": "other"}',
        b'{"format": "ediffi-measures-1", "source": "a", "keys": ["0"]}',
    ):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match="holds no measures of a shard"):
            Measures.read(tmp_path / "a.json")
        with pytest.raises(ValueError, match="holds no report of a filter"):
            FilterReport.read(tmp_path / "a.json")


def test_recipes_are_typed(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "measuring:\n  clip_image: {name: clip_image, arguments: {path: x}}\n  hash: perceptual\n"
        "keep: {short_side_above: 256, alignment: 0.2, aesthetic: 5}\n"
    )
    measuring, keep = read_recipe(recipe)
    assert measuring == ScoreSettings(clip_image=Part("clip_image", {"path": "x"}), hash="perceptual")
    assert keep == Keep(256, 0.2, 5.0)
    for wrong in (
        "keep: {short_side: 64}",
        "keep: {short_side_above: large}",
        "measuring: {hash: md5}",
        "- keep",
        "keep: {",
    ):
        recipe.write_text(wrong)
        with pytest.raises(ValueError, match=r"recipe.yaml is no recipe of a filter"):
            read_recipe(recipe)
    recipe.write_text("keep: {short_side_above: -3}")
    with pytest.raises(ValueError, match="short_side_above must not be negative"):
        read_recipe(recipe)
    with pytest.raises(FileNotFoundError, match="no recipe"):
        read_recipe(tmp_path / "none.yaml")


# Page and commands


def test_the_page_shows_every_score_and_reason(job: Callable[..., FilterRun]) -> None:
    made = job()
    write_page(made.output / "filter.png", made, made.run(ALONE))
    with Image.open(made.output / "filter.png") as page:
        assert min(page.size) > 1000
        colours = {colour for _, colour in page.convert("RGB").getcolors(1 << 24)}
    assert {(0x2A, 0x9D, 0x8F), (0xC8, 0x55, 0x3D)} <= colours


def test_histograms_lose_nothing_beyond_their_ends(tmp_path: Path) -> None:
    samples = [
        sample(str(row), picture(row, (4 + row, 8)), AESTHETIC_SCORE=mark) for row, mark in enumerate((-3, 5, 12.5))
    ]
    found = measure(write(tmp_path / "a.tar", samples), ScoreSettings(), Scorer(ScoreSettings()))
    report = FilterReport.of(found, [None, "aesthetic", None], None)
    assert sum(report.scores["aesthetic"]["kept"]) == 2
    assert (report.scores["aesthetic"]["kept"][0], report.scores["aesthetic"]["kept"][-1]) == (1, 1)
    assert sum(report.scores["short_side"]["kept"]) == 2
    assert all(len(edges) == len(report.scores[name]["kept"]) + 1 for name, edges in EDGES.items())


def test_the_command_filters(tmp_path: Path, raw: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("keep: {alignment: 0.1}\n")
    pattern = str(tmp_path / "raw" / "{00000..00002}.tar")
    assert (
        run_command(filter_command, [pattern, "--config", str(recipe), "-o", str(tmp_path / "out"), "--no-page"], "")
        == 0
    )
    assert "23 of 36 kept (63.9 %)" in capsys.readouterr().out
    assert sum(shard.samples for shard in Index.read(tmp_path / "out").shards) == 23
    words = [
        pattern,
        "--config",
        str(recipe),
        "-o",
        str(tmp_path / "large"),
        "--no-page",
        "--short-side-above",
        "99999",
    ]
    with pytest.raises(ValueError, match=r"nothing is left of 3 shards: .* short side at most 99999"):
        run_command(filter_command, words, "data filter")


def test_the_recipe_that_ships_keeps_what_the_paper_says() -> None:
    measuring, keep = read_recipe(path_of("paper/filter"))
    assert (keep.short_side_above, keep.unique) == (64, True)
    assert keep.alignment is not None
    assert keep.aesthetic is not None
    assert measuring == ScoreSettings()
