"""Embeddings of whole data sets: right, unpadded, once, whatever is killed on the way."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ediffi import cli
from ediffi.data.embedding.encode import Embedder, batches, encode_captions, lengths, prepare_image
from ediffi.data.embedding.estimate import EmbeddingEstimate, estimate, format_bytes, format_duration, padded_bytes
from ediffi.data.embedding.identity import build, folder_sha256, identity, named_encoders
from ediffi.data.embedding.ledger import Ledger
from ediffi.data.embedding.run import EmbedRun, read_source, work
from ediffi.data.index import Index, check_embeddings
from ediffi.data.shards import caption_of, decode, image_of, load_shard, read_shard, reject_for_embedding
from ediffi.data.stream import ImageTransform, ShardStream
from ediffi.data.tar import Tally, read_samples
from ediffi.hub.config import Part
from ediffi.hub.models import SHIPPED
from ediffi.io.distributed import DistributedContext
from ediffi.io.files import sha256
from ediffi.registry import encoders
from tests.data import img2dataset

ENCODERS = SHIPPED / "toybox" / "encoders"
TEXT = {"t5": Part("t5", {"path": str(ENCODERS / "t5")})}
ALONE = DistributedContext()
SHARDS, SAMPLES = 4, 12


@pytest.fixture(scope="module")
def source(new_folder: Callable[[str], Path]) -> list[str]:
    """Four shards in img2dataset's layout."""
    return img2dataset.write(new_folder("source"), SHARDS, SAMPLES)


@pytest.fixture(scope="module")
def embedded(source: list[str], new_folder: Callable[[str], Path]) -> Path:
    """Their embeddings by the encoders of the shipped Toybox."""
    folder = new_folder("embedded") / "out"
    EmbedRun(source, folder, named_encoders(["toybox"]))(ALONE)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def failing(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a command that fails as it should."""
    encoders = [] if "--encoders" in argv else ["--encoders", "toybox"]
    assert cli.main(["embed", *argv, *encoders]) == 1
    err = capsys.readouterr().err
    assert err.startswith("ediffi: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("ediffi: error: ").rstrip()


# What is stored


def test_each_embedding_is_that_of_the_caption_alone(embedded: Path) -> None:
    encoders = build(named_encoders(["toybox"]))
    for raw in read_shard(embedded / "00001.tar"):
        sample = decode(raw)
        alone = {
            "t5": encoders["t5"]([sample.caption]),
            "clip_text": encoders["clip_text"]([sample.caption]),
            "clip_image": encoders["clip_image"](prepare_image(sample.image, encoders["clip_image"])[None]),
        }
        wanted = {f"{source}.tokens": embedding.tokens[0] for source, embedding in alone.items()}
        wanted |= {f"{source}.pooled": e.pooled[0] for source, e in alone.items() if e.pooled is not None}
        assert sample.embeddings.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert sample.embeddings[name].dtype == torch.bfloat16
            torch.testing.assert_close(sample.embeddings[name].float(), tensor, rtol=2**-7, atol=1e-4)


def test_the_rest_of_a_sample_is_as_it_came(embedded: Path, source: list[str]) -> None:
    for number, place in enumerate(source):
        found = list(read_shard(embedded / f"{number:05d}.tar"))
        for raw, other in zip(found, read_samples(place, Tally(), reject_for_embedding), strict=True):
            assert {name: value for name, value in raw.items() if name != "safetensors"} == other


def test_nothing_is_padded(embedded: Path) -> None:
    encoders = build(named_encoders(["toybox"]))
    for raw in read_shard(embedded / "00000.tar"):
        sample = decode(raw)
        for name in ("t5", "clip_text"):
            tokens = int(encoders[name].tokenize([sample.caption])[1].sum())
            assert sample.embeddings[f"{name}.tokens"].shape == (tokens, encoders[name].width)
        assert sample.embeddings["clip_image.tokens"].shape == (1, encoders["clip_image"].width)
        text = {name: tensor for name, tensor in sample.embeddings.items() if name == "t5.tokens"}
        assert padded_bytes(encoders, [text]) == 113 * 128 * 2
        assert sum(tensor.nbytes for tensor in text.values()) == len(text["t5.tokens"]) * 128 * 2


def test_the_index_tells_whose_embeddings_they_are(embedded: Path) -> None:
    index = Index.read(embedded)
    assert (len(index.shards), index.samples, index.dtype) == (SHARDS, SHARDS * SAMPLES, "bfloat16")
    for shard in index.shards:
        assert len(load_shard(shard)) == SAMPLES
        assert shard.bytes == shard.path.stat().st_size
    assert index.encoders["clip_text"] == {
        "name": "clip_text",
        "arguments": {},
        "sha256": folder_sha256(ENCODERS / "clip"),
        "width": 128,
        "pooled_width": 128,
        "dtype": "float32",
    }
    check_embeddings(index, {"t5": {"name": "t5", "sha256": folder_sha256(ENCODERS / "t5")}}, "bfloat16")


def test_training_reads_them(embedded: Path) -> None:
    batch = next(iter(ShardStream(Index.read(embedded).shards, ImageTransform(16), batch_size=7, seed=0)))
    assert set(batch.cond.sources) == {"t5", "clip_text", "clip_image"}
    assert batch.images.shape == (7, 3, 16, 16)


def test_sources_in_two_runs_are_those_of_one(embedded: Path, source: list[str], tmp_path: Path) -> None:
    """The second run keeps what the first has made, and replaces what it makes itself."""
    parts = named_encoders(["toybox"])
    text, clip = {"t5": parts["t5"]}, {name: parts[name] for name in ("clip_text", "clip_image")}
    EmbedRun(source, tmp_path / "one", text)(ALONE)
    first = sorted(str(path) for path in (tmp_path / "one").glob("*.tar"))
    EmbedRun(first, tmp_path / "two", clip)(ALONE)
    EmbedRun(sorted(str(path) for path in (tmp_path / "two").glob("*.tar")), tmp_path / "three", text)(ALONE)
    for folder in ("two", "three"):
        assert Index.read(tmp_path / folder).encoders == Index.read(embedded).encoders
        for path in sorted(embedded.glob("*.tar")):
            wanted, found = (map(decode, read_shard(place)) for place in (path, tmp_path / folder / path.name))
            for one, other in zip(wanted, found, strict=True):
                assert one.embeddings.keys() == other.embeddings.keys()
                assert all(torch.equal(one.embeddings[name], other.embeddings[name]) for name in one.embeddings)


def test_shards_of_different_encoders_are_embedded_apart(embedded: Path, source: list[str], tmp_path: Path) -> None:
    both = [source[0], str(embedded / "00000.tar")]
    with pytest.raises(ValueError, match="embeddings of different encoders: embed them in two runs"):
        EmbedRun(both, tmp_path / "out", TEXT)(ALONE)


# Batches


@given(st.lists(st.integers(1, 113), max_size=60), st.integers(1, 500))
def test_batches_hold_every_text_once_and_are_no_larger_than_asked(sizes: list[int], batch_tokens: int) -> None:
    found = list(batches(sizes, batch_tokens))
    assert sorted(row for batch in found for row in batch) == list(range(len(sizes)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(sizes[row] for row in batch) <= batch_tokens
    padded = [max(sizes[row] for row in batch) for batch in found]
    assert padded == sorted(padded, reverse=True)


def test_order_and_batches_do_not_matter(source: list[str]) -> None:
    captions = [caption_of(raw) for raw in read_source(source[0], Tally())]
    captions += captions[:3]
    encoder = build(TEXT)["t5"]
    many, few = (encode_captions("t5", encoder, captions, size) for size in (100_000, 40))
    assert [len(row["t5.tokens"]) for row in many] == lengths(encoder, captions)
    for one, other in zip(many, few, strict=True):
        torch.testing.assert_close(one["t5.tokens"].float(), other["t5.tokens"].float(), rtol=2**-7, atol=1e-4)
    assert torch.equal(many[0]["t5.tokens"], many[-3]["t5.tokens"])


def test_a_picture_is_prepared_as_clip_prepares_it(source: list[str]) -> None:
    import open_clip

    encoder = build(named_encoders(["toybox"]))["clip_image"]
    image = image_of(read_source(source[0], Tally())[0]).resize((150, 100))
    settings = open_clip.transform.PreprocessCfg(**encoder.model.visual.preprocess_cfg)
    own = open_clip.transform.image_transform_v2(settings, is_train=False)
    wanted = own(image) * encoder.std + encoder.mean
    torch.testing.assert_close(prepare_image(image, encoder) / 2 + 0.5, wanted, atol=1e-5, rtol=0)
    assert prepare_image(image, torch.nn.Identity()).shape == (3, 224, 224)


# Restart


def embed_text(source: Sequence[str], folder: Path, first: int = 0) -> None:
    """A process of a run that embeds captions only."""
    torch.set_num_threads(1)  # this process is a copy of one whose threads it does not have
    ledger = Ledger(folder, len(source), {"test": True})
    ledger.begin()
    work(ledger, source, Embedder(build(TEXT)), {}, first)


def start(source: Sequence[str], folder: Path, first: int = 0) -> Any:
    process = multiprocessing.get_context("fork").Process(target=embed_text, args=(source, folder, first))
    process.start()
    return process


def recorded(folder: Path) -> int:
    return len(list(folder.glob(".embedding/*.json"))) - 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_and_begun_again(ranks: int, tmp_path: Path) -> None:
    """Killed with -9 at random moments until it is through: no shard twice, none missing, equal bytes."""
    source = img2dataset.write(tmp_path / "source", 12, 4, size=32)
    embed_text(source, tmp_path / "unbroken")
    rng, kills, done = random.Random(ranks), 0, 0
    while True:
        processes = [start(source, tmp_path / "killed", 6 * rank) for rank in range(ranks)]
        deadline = time.monotonic() + 120
        if kills < 10:
            wanted = done + rng.choice([0, 1, 2])
            while (done := recorded(tmp_path / "killed")) < wanted and any(one.is_alive() for one in processes):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.03))
            victims = processes if kills % 4 != 3 else processes[-1:]  # another goes on with the work of the dead one
            kills += any(one.is_alive() for one in victims)
            for one in victims:
                one.kill()
        for one in processes:
            one.join(deadline - time.monotonic())
            assert one.exitcode is not None
        if all(one.exitcode == 0 for one in processes):
            break
    assert kills >= 2
    for folder in ("unbroken", "killed"):
        ledger = Ledger(tmp_path / folder, len(source), {"test": True})
        assert ledger.pending() == []
        ledger.finish({})
    assert digests(tmp_path / "killed") == digests(tmp_path / "unbroken")


def test_the_shard_of_a_dead_process_is_taken_over(source: list[str], tmp_path: Path) -> None:
    def hold(ledger: Ledger, ready: Any) -> None:
        with ledger.taken(1):
            ready.set()
            time.sleep(60)

    ledger = Ledger(tmp_path / "out", 4, {})
    ledger.begin()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(ledger, ready))
    holder.start()
    assert ready.wait(30)
    with ledger.taken(1) as mine, ledger.taken(2) as other:
        assert (mine, other) == (False, True)
    holder.kill()
    holder.join(30)
    with ledger.taken(1) as mine:
        assert mine


def test_a_finished_shard_is_not_done_again(embedded: Path, source: list[str], tmp_path: Path) -> None:
    run = EmbedRun(source, tmp_path / "out", named_encoders(["toybox"]))
    ledger = Ledger(run.folder, SHARDS, run.request(run.embedder("cpu")))
    ledger.begin()
    for number in (0, 2):
        name = ledger.name(number)
        (run.folder / name).write_bytes((embedded / name).read_bytes())
        record = json.loads((embedded / "index.json").read_text())["shards"][number]
        ledger.record(number, record)
    times = [(run.folder / ledger.name(number)).stat().st_mtime_ns for number in (0, 2)]
    (run.folder / ledger.name(1)).write_bytes(b"renamed, but killed before it was recorded")
    run(ALONE)
    assert times == [(run.folder / ledger.name(number)).stat().st_mtime_ns for number in (0, 2)]
    assert digests(run.folder) == digests(embedded)


def test_a_shard_that_was_removed_is_done_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out", 2, {})
    ledger.begin()
    (tmp_path / "out" / "00000.tar").write_bytes(b"1234")
    ledger.record(0, {"bytes": 4})
    assert Ledger(tmp_path / "out", 2, {}).pending() == [1]
    with ledger.taken(0) as finished, ledger.taken(1) as pending:
        assert (finished, pending) == (False, True)
    (tmp_path / "out" / "00000.tar").write_bytes(b"12345")
    assert Ledger(tmp_path / "out", 2, {}).pending() == [0, 1]
    (tmp_path / "out" / "00000.tar").unlink()
    assert Ledger(tmp_path / "out", 2, {}).pending() == [0, 1]


def test_each_process_begins_elsewhere(tmp_path: Path) -> None:
    source = img2dataset.write(tmp_path / "source", 4, 1, size=32)
    ledger, done = Ledger(tmp_path / "out", 4, {}), []
    ledger.begin()
    work(ledger, source, Embedder(build(TEXT)), {}, 2, lambda: done.append(sorted(ledger.records())))
    assert done[:4] == [[2], [2, 3], [0, 2, 3], [0, 1, 2, 3]]


def test_broken_images_are_dropped_and_counted(tmp_path: Path) -> None:
    (shard,) = img2dataset.write(
        tmp_path, 1, 5, size=32, change=lambda made, row: made | ({"jpg": b"x"} if row in (0, 3) else {})
    )
    tally = Tally()
    rows = list(Embedder(build(TEXT), batch_images=2).rows(read_source(shard, tally), tally))
    assert [raw["__key__"][-1] for raw, _ in rows] == ["1", "2", "4"]
    assert (tally.samples, tally.dropped) == (3, {"image broken": 2})


@pytest.mark.parametrize("native", [True, False])
def test_an_encoder_that_is_slow_here_is_told(
    native: bool, source: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ediffi.io.devices.computes_bfloat16", lambda device: native)
    low = Part("hf_text", {"path": str(ENCODERS / "t5"), "dtype": "bfloat16"})
    EmbedRun(source, tmp_path, {"t5": low}).embedder("cpu")
    said = "this cpu emulates bfloat16, many times slower than float32; the argument dtype=float32 of t5 is faster"
    assert (said in caplog.messages) == (not native)


def test_the_same_command_again_finds_it_complete(
    embedded: Path, source: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = digests(embedded)
    with caplog.at_level("INFO", "ediffi"):
        EmbedRun(source, embedded, named_encoders(["toybox"]))(ALONE)
    assert caplog.messages == [f"complete already: {embedded / 'index.json'}"]
    assert digests(embedded) == before


# The command


def test_the_command_embeds_and_tells(source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = f"{Path(source[0]).parent}/{{00000..00001}}.tar"
    argv = ["embed", "--shards", names, "--out", str(tmp_path / "out"), "--encoders", "toybox"]
    assert cli.main([*argv, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["to embed", "to write", "time", "t5", "clip_text"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "24 samples in 2 shards; left out: nothing" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.tar", "00001.tar", "index.json"]


def test_what_is_expected_is_what_comes(source: list[str], embedded: Path) -> None:
    plan = estimate(source, Embedder(build(named_encoders(["toybox"]))), processes=2)
    assert (plan.shards, plan.processes, plan.measured) == (4, 2, 48)
    assert plan.samples == pytest.approx(48, rel=0.05)
    written = sum(shard.path.stat().st_size for shard in Index.read(embedded).shards)
    assert plan.media_bytes + plan.embedding_bytes == pytest.approx(written, rel=0.05)
    assert estimate(source, Embedder(build(TEXT))).padded_share == pytest.approx(
        np.mean([len(row["t5.tokens"]) for row in rows_of(embedded)]) / 113, rel=1e-6
    )


def rows_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [dict(decode(raw).embeddings) for path in sorted(folder.glob("*.tar")) for raw in read_shard(path)]


def test_sizes_and_times_for_people() -> None:
    assert [format_bytes(count) for count in (12, 4_300, 71e9, 2.5e15)] == ["12 bytes", "4.3 kB", "71 GB", "2,500.0 TB"]
    assert [format_duration(s) for s in (12, 1234, 12345, 3e6)] == ["12 s", "21 min", "3 h 26 min", "34 days 17 h"]


# Encoders


def test_encoders_by_model_name_file_and_names(tmp_path: Path) -> None:
    shipped = named_encoders(["toybox"])
    assert list(shipped) == ["t5", "clip_text", "clip_image"]
    assert named_encoders([str(SHIPPED / "toybox")]) == shipped
    named = named_encoders(["t5_xxl", "clip_l14_text", "clip_l14_image", "other=t5"])
    assert {source: part.name for source, part in named.items()} == {
        "t5": "t5_xxl",
        "clip_text": "clip_l14_text",
        "clip_image": "clip_l14_image",
        "other": "t5",
    }
    path = tmp_path / "encoders.yaml"
    path.write_text(yaml.safe_dump({"t5": {"name": "t5", "arguments": {"path": str(ENCODERS / "t5")}}}))
    assert named_encoders([str(path)]) == TEXT
    assert named_encoders(["recipes/paper/cascade.yaml"])["t5"] == Part("t5_xxl", {})
    assert Path(named_encoders(["recipes/toybox/cascade.yaml"])["t5"].arguments["path"]).is_dir()


def test_an_encoder_is_known_by_its_weights_not_by_its_place(tmp_path: Path) -> None:
    (encoder,) = build(TEXT).values()
    known = identity(TEXT["t5"], encoder)
    for file in (ENCODERS / "t5").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "README.md").write_text("of no importance")
    assert identity(Part("t5", {"path": str(tmp_path)}), encoder) == known
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"changed": True}))
    assert identity(Part("t5", {"path": str(tmp_path)}), encoder)["sha256"] != known["sha256"]
    assert identity(Part("t5", {"path": str(tmp_path), "max_tokens": 20}), encoder)["arguments"] == {"max_tokens": 20}


def test_an_encoder_without_files_is_known_by_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whichever folder the command is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(encoders.REGISTRY, "factory", lambda name: lambda: None)
    made = torch.nn.Linear(2, 1)
    known = identity(Part("own", {}), made)
    assert "sha256" not in known
    with torch.no_grad():
        made.bias += 1
    assert identity(Part("own", {}), made)["weights"] != known["weights"]


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ("t5x", "no encoder named 't5x'; did you mean t5"),
        ("t5", "the encoder 't5' has missing a required argument: 'path'; give its arguments in a YAML file"),
        ("[t5_xxl,t5]", "t5_xxl, t5 have the same source"),
        ("nothing.yaml", "nothing.yaml"),
    ],
)
def test_wrong_encoders(
    encoders: str, message: str, source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failing(capsys, "--shards", source[0], "--out", str(tmp_path / "out"), "--encoders", encoders)


def test_a_yaml_that_names_no_encoders(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for content in ("- t5", "{t5: t5}", "{t5: [", "{t5: {arguments: {}}}"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"a\.yaml names no encoders"):
            named_encoders([str(path)])


# Bad input


def text_run(shards: Sequence[str], folder: Path, **options: int) -> EmbedRun:
    return EmbedRun(shards, folder, TEXT, **options)


def test_shards_that_are_not_there(source: list[str], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"2 of 3 shards do not exist, the first is .*00000\.tar"):
        text_run([f"{tmp_path}/00000.tar", source[0], f"{tmp_path}/x.tar"], tmp_path / "out")(ALONE)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_shard_does_not_stop_the_others(source: list[str], tmp_path: Path) -> None:
    """The second source is another one than its index says; once it is right, the same command ends the work."""
    for place in source[:2]:
        (tmp_path / Path(place).name).write_bytes(Path(place).read_bytes())
    assert cli.main(["data", "index", str(tmp_path)]) == 0
    shards = [str(tmp_path / Path(place).name) for place in source[:2]]
    Path(shards[1]).write_bytes(Path(source[2]).read_bytes())
    with pytest.raises(ValueError, match=r"1 of 2 shards could not be read, .*00001.tar has another sha256"):
        text_run(shards, tmp_path / "out")(ALONE)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    Path(shards[1]).write_bytes(Path(source[1]).read_bytes())
    text_run(shards, tmp_path / "out")(ALONE)
    text_run(source[:2], tmp_path / "other")(ALONE)
    index, other = Index.read(tmp_path / "out"), Index.read(tmp_path / "other")
    assert [shard.sha256 for shard in index.shards] == [shard.sha256 for shard in other.shards]


def test_losses_are_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(made: dict[str, Any], row: int) -> dict[str, Any]:
        changes: list[dict[str, Any]] = [
            {"txt": b""},
            {"jpg": made["jpg"][:300]},
            {"json": b'{"status": "failed"}'},
            {},
        ]
        return made | (changes[row] if row < 4 else {"pkl": b"x"})

    shards = img2dataset.write(tmp_path / "in", 2, 6, change=change)
    truncated = Path(shards[1]).read_bytes()
    Path(shards[1]).write_bytes(truncated[: len(truncated) // 2])
    with caplog.at_level("INFO", "ediffi"):
        text_run(shards, tmp_path / "out")(ALONE)
    index = Index.read(tmp_path / "out")
    first, second = index.content["shards"]
    assert first["dropped"] == {"no caption": 1, "image broken": 1, "status failed": 1}
    assert first["skipped"] == {"suffix .pkl not read": 2}
    assert (first["samples"], second["dropped"]["cut off"], len(second["broken"])) == (3, 1, 1)
    assert "2 no caption" in caplog.text


def test_no_captions_at_all(tmp_path: Path) -> None:
    shards = img2dataset.write(tmp_path / "in", 2, 3, change=lambda made, row: made | {"txt": b""})
    with pytest.raises(ValueError, match=r"no sample to embed in the first shards: 6 no caption"):
        text_run(shards, tmp_path / "out")(ALONE)
    shards = img2dataset.write(tmp_path / "in", 1, 3, change=lambda made, row: made | {"jpg": b"x"})
    with pytest.raises(ValueError, match=r"no sample to embed in .*00000.tar: 3 image broken"):
        text_run(shards, tmp_path / "out")(ALONE)


def test_another_run_in_the_folder(embedded: Path, source: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other shards than these \(background, encoders differ\)"):
        text_run(source, embedded)(ALONE)
    with pytest.raises(ValueError, match=r"\(sources differ\)"):
        EmbedRun(source[:2], embedded, named_encoders(["toybox"]))(ALONE)
    Ledger(tmp_path / "begun", 4, {"dtype": "bfloat16"}).begin()
    with pytest.raises(ValueError, match=r"is getting, other shards than these \(dtype differ\)"):
        Ledger(tmp_path / "begun", 4, {"dtype": "float16"})
    with pytest.raises(ValueError, match="holds shards that this command did not make"):
        text_run(source, Path(source[0]).parent)(ALONE)


def test_a_full_disk(source: list[str], tmp_path: Path) -> None:
    """What is done stays, what is half written goes, and the same command goes on."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "00001.tar.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        text_run(source[:2], folder)(ALONE)
    assert caught.value.filename == str(folder / "00001.tar")
    assert [path.name for path in folder.glob("*.tar*")] == ["00000.tar"]
    text_run(source[:2], folder)(ALONE)
    assert Index.read(folder).samples == 2 * SAMPLES


def test_too_little_space_is_said_before_it_begins(tmp_path: Path) -> None:
    plan = EmbeddingEstimate(9, 10**15, 10**9, 256, 10**18, 10**18, 0.1, 1e6, 8, {})
    with pytest.raises(ValueError, match=r"about 2,000,000.0 TB will be written"):
        plan.check_space(tmp_path / "not" / "yet" / "there")
    assert "11 days 13 h" in plan.lines(tmp_path)[2]


@pytest.mark.parametrize(("option", "value"), [("batch_tokens", 0), ("batch_images", -1)])
def test_wrong_numbers(option: str, value: int, source: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got {value}"):
        text_run(source, tmp_path, **{option: value})(ALONE)


def test_more_processes_than_shards_is_told(
    source: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text_run(source[:1], tmp_path / "out")(DistributedContext(0, 3, "cpu", lambda value: [value] * 3))
    assert "1 shards for 3 processes: 2 will be idle" in caplog.text


# The real thing: the command line, killed


def run_command(argv: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ediffi", "embed", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "kills"), [(1, 10), (2, 10)])
def test_the_command_killed_at_random(devices: int, kills: int, tmp_path: Path) -> None:
    source = img2dataset.write(tmp_path / "source", 8, 150)
    run = EmbedRun(source, tmp_path / "unbroken", named_encoders(["toybox"]))
    torch.set_num_threads(1)
    run(ALONE)
    rng = random.Random(devices)
    argv = [
        "--shards",
        f"{tmp_path}/source/{{00000..00007}}.tar",
        "--out",
        str(tmp_path / "out"),
        "--encoders",
        "toybox",
    ]
    argv += ["--devices", str(devices)]
    began = time.monotonic()
    process = run_command(argv)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out").glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.05)
    start_up = time.monotonic() - began
    for _ in range(kills):
        time.sleep(rng.uniform(0, 2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        process = run_command(argv)
        time.sleep(rng.uniform(0.5, 1.0) * start_up)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert digests(tmp_path / "out") == digests(tmp_path / "unbroken") | {
        "index.json": sha256(tmp_path / "out" / "index.json")
    }
    keys = [raw["__key__"] for shard in Index.read(tmp_path / "out").shards for raw in load_shard(shard)]
    assert len(keys) == len(set(keys)) == 8 * 150
