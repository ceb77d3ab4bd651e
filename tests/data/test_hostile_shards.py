"""Shards from enemies and from broken disks: nothing is run, nothing crashes, nothing is wrong in silence."""

import io
import json
import pickle
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ediffi import cli
from ediffi.data.index import Index, Shard
from ediffi.data.shards import MAX_CAPTION, Sample, decode, load_shard, read_shard, reject_for_embedding, write_shards
from ediffi.data.tar import MAX_HEADER, MAX_MEMBER, Tally, read_samples
from ediffi.data.verify import array_of, check_shard
from ediffi.io import urls
from ediffi.io.files import sha256
from tests.data import img2dataset

SAMPLES = 20
BLOCK = 512


class Bomb:
    """Writes to a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return open, (str(self.canary), "w")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "something was run"


@pytest.fixture(scope="module")
def foreign(new_folder: Callable[[str], Path]) -> bytes:
    """A shard of 20 samples as img2dataset writes it."""
    return Path(img2dataset.write(new_folder("foreign"), 1, SAMPLES, size=32)[0]).read_bytes()


@pytest.fixture(scope="module")
def own(new_folder: Callable[[str], Path]) -> bytes:
    """A shard of 20 samples with embeddings."""
    folder = new_folder("own")
    rng = np.random.default_rng(0)
    samples = (
        Sample(
            key=f"{row:04d}",
            image=img2dataset.Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)),
            caption=f"noise number {row}",
            embeddings={"t5.tokens": torch.randn(3, 8, dtype=torch.bfloat16)},
            metadata={"row": row},
        )
        for row in range(SAMPLES)
    )
    write_shards(folder, samples, SAMPLES, {})
    return (folder / "00000.tar").read_bytes()


def count(path: Path, data: bytes) -> Tally:
    path.write_bytes(data)
    tally = Tally()
    for _ in read_samples(str(path), tally, reject_for_embedding):
        pass
    return tally


def seen_whole(data: bytes) -> Callable[[int], int]:
    """By the tar module's own account: samples behind which another member, or the end mark, lies before a cut."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        keys = [member.name.partition(".")[0] for member in members]
        ends = [member.offset_data + member.size for member in members]
    firsts = [end for end, key, before in zip(ends[1:], keys[1:], keys, strict=False) if key != before]
    mark = -(-ends[-1] // BLOCK) * BLOCK + BLOCK
    return lambda cut: sum(end <= cut for end in firsts) + (cut >= mark)


@pytest.mark.parametrize("kind", ["foreign", "own"])
def test_cut_off_at_every_block(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    data: bytes = request.getfixturevalue(kind)
    whole = count(tmp_path / "whole.tar", data)
    assert (whole.samples, whole.losses(), whole.bytes) == (SAMPLES, {}, len(data))
    assert whole.sha256 == sha256(tmp_path / "whole.tar")
    known = Shard(str(tmp_path / "cut.tar"), SAMPLES, whole.sha256, len(data))
    wanted = seen_whole(data)
    for cut in range(0, len(data), BLOCK):
        known.path.write_bytes(data[:cut])
        checked = check_shard(known.url, known, decode=False)
        tally = checked.tally
        assert tally.samples == wanted(cut)
        # Nothing is lost in silence: the end mark was there, or the tally says that it was not.
        assert bool(tally.broken) == (tally.samples < SAMPLES)
        assert tally.dropped["cut off"] == tally.dropped.total() <= 1
        assert checked.problems
        if cut % (16 * BLOCK) == 0:
            with pytest.raises(ValueError, match=r"its index says"):
                load_shard(known)


@pytest.mark.parametrize("kind", ["foreign", "own"])
@pytest.mark.filterwarnings("default")  # what Pillow thinks of a damaged picture
def test_flipped_bits(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    data: bytes = request.getfixturevalue(kind)
    path = tmp_path / "flipped.tar"
    count(path, data)
    known, rng = Shard(str(path), SAMPLES, sha256(path), len(data)), np.random.default_rng(3)
    lost: Counter[bool] = Counter()
    for position in rng.integers(0, 8 * len(data), size=120):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        checked = check_shard(str(path), known)  # decodes all that is left
        # Where a checksum exists, every flip is seen; where none exists, samples are missing only with a reason.
        assert any("sha256" in problem for problem in checked.problems)
        if checked.tally.samples < SAMPLES:
            assert checked.tally.losses()
        lost[checked.tally.samples < SAMPLES] += 1
    with pytest.raises(ValueError, match=r"its index says"):
        load_shard(known)
    assert lost[True] > 10, "the flips should have hit headers too"


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def tar_of(path: Path, *entries: tuple[tarfile.TarInfo, bytes], good: int = 2) -> Path:
    """Entries between good samples."""
    parts = [img2dataset.sample(0, row, 32) for row in range(good)]
    members = [[entry(f"{made['__key__']}.{name}", made[name]) for name in ("jpg", "txt", "json")] for made in parts]
    with tarfile.open(path, "w") as tar:
        for info, data in (pair for group in (*members[:-1], entries, members[-1]) for pair in group):
            tar.addfile(info, io.BytesIO(data))
    return path


def read(path: Path) -> Tally:
    tally = Tally()
    for raw in read_samples(str(path), tally, reject_for_embedding):
        assert {"jpg", "txt"} <= raw.keys() <= {"__key__", "jpg", "txt", "json", "npy"}
    return tally


def test_pickles_stay_bytes(tmp_path: Path, canary: Path) -> None:
    bomb = pickle.dumps(Bomb(canary))
    suffixes = ("pkl", "pickle", "pyd", "pth", "pt", "cbor", "mp", "cls", "ten", "npz", "PKL", "jpg.pkl")
    tally = read(tar_of(tmp_path / "a.tar", *(entry(f"x.{suffix}", bomb) for suffix in suffixes)))
    assert tally.samples == 2
    assert sum(tally.skipped.values()) == len(suffixes)
    assert tally.skipped["suffix .pkl not read"] == 2


def test_pickles_under_good_names_are_not_unpickled(tmp_path: Path, canary: Path) -> None:
    bomb, good = pickle.dumps(Bomb(canary)), img2dataset.sample(0, 7, 32)
    npy = io.BytesIO()
    np.save(npy, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    for suffix in ("jpg", "txt", "json", "safetensors", "npy"):
        made = good | {suffix: npy.getvalue() if suffix == "npy" else bomb}
        path = tar_of(tmp_path / "a.tar", *(entry(f"x.{s}", d) for s, d in made.items() if s != "__key__"))
        tally = Tally()
        for raw in read_samples(str(path), tally, lambda raw: None):
            if raw["__key__"] == "x":
                with pytest.raises(ValueError, match="'x'"):
                    array_of(raw) if suffix == "npy" else decode({"safetensors": save({}), **raw})
        assert check_shard(str(path)).problems or suffix in ("txt", "json")
    with pytest.raises(ValueError, match=r"objects|pickle"):
        array_of({"__key__": "x", "npy": npy.getvalue()})


@pytest.mark.parametrize(
    "name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "..\\x.jpg", "a\n.jpg", "a/..//x.jpg", "\x1b[2Jx.jpg"]
)
def test_names_that_leave_the_folder(name: str, tmp_path: Path) -> None:
    tally = read(tar_of(tmp_path / "a.tar", entry(name, b"x"), entry(name.replace("jpg", "txt"), b"x")))
    assert tally.samples == 2
    assert sum(tally.skipped.values()) == 2


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", entry("x.jpg", kind=kind, link="/etc/passwd"), entry("x.txt", b"a caption"))
    tally = read(path)
    assert tally.samples == 2
    assert tally.skipped == {"link, device or sparse file": 1}
    assert tally.dropped == {"no image": 1}


def test_sparse_files_are_not_read(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", entry("x.jpg", b"x", kind=tarfile.GNUTYPE_SPARSE), entry("x.txt", b"a caption"))
    tally = read(path)
    assert tally.skipped == {"link, device or sparse file": 1}
    assert (tally.samples, tally.dropped) == (2, {"no image": 1})


def test_a_shard_is_compared_with_every_fact_of_its_index(foreign: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(foreign)
    right = Shard(str(path), SAMPLES, sha256(path), len(foreign))
    assert check_shard(str(path), right, decode=False).problems == []
    for what, wrong in (("samples", 19), ("samples", 21), ("bytes", 1), ("sha256", "aa")):
        (problem,) = check_shard(str(path), replace(right, **{what: wrong}), decode=False).problems
        assert what in problem
    assert check_shard(str(path), Shard(str(path), SAMPLES, ""), decode=False).problems == []


def raw_header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header with a good checksum, and whatever size field."""
    header = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size + b"00000000000\0" + b" " * 8 + kind)
    header += bytes(BLOCK - len(header))
    header[257:265] = b"ustar\00000"
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def base256(value: int) -> bytes:
    return (b"\xff" if value < 0 else b"\x80") + value.to_bytes(11, "big", signed=True)


def extended(records: bytes) -> bytes:
    """A pax header, which says more about the next one."""
    return raw_header(b"x", f"{len(records):011o}\0".encode(), b"x") + records.ljust(BLOCK, b"\0")


@pytest.mark.parametrize(
    "evil",
    [
        raw_header(b"x.jpg", base256(2**80)),
        raw_header(b"x.jpg", base256(-1024)),
        raw_header(b"x.jpg", base256(2**40)),
        raw_header(b"x.jpg", b"77777777777\0"),
        raw_header(b"x.jpg", b"not a number"),
        raw_header(b"x", base256(2**40), b"x"),
        raw_header(b"x", base256(-512), b"x"),
        raw_header(b"x", base256(2**33), b"L"),
        extended(b"12 a=1234567") * 2000,
        extended(b"10 size=x\n") + raw_header(b"x.jpg", b"0" * 11 + b"\0"),
        extended(b"24 GNU.sparse.map=a,b,c\n") + raw_header(b"x.jpg", b"0" * 11 + b"\0"),
        raw_header(b"x.jpg", b"77777777777\0", b"S"),
        b"\xff" * BLOCK,
        b"PK\x03\x04".ljust(BLOCK, b"a"),
    ],
    ids=range(14),
)  # fmt: skip
def test_headers_that_lie(evil: bytes, tmp_path: Path) -> None:
    """What stands before a bad header is read, what comes after it is not, and the tally says so."""
    path = tmp_path / "a.tar"
    tar_of(path, good=2)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        begin = tar.getmembers()[3].offset
    path.write_bytes(data[:begin] + evil + data[begin:])
    tally = read(path)
    assert tally.samples <= 2
    assert tally.samples == 2 or tally.losses()
    assert tally.bytes == path.stat().st_size
    path.write_bytes(evil)
    assert read(path).samples == 0


def test_limits_of_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    tar_of(path, entry("x.txt", bytes(MAX_MEMBER + 1)))
    assert read(path).skipped == {f"more than {MAX_MEMBER >> 20} MiB": 1}
    long = "a" * MAX_HEADER + ".txt"
    assert "header of more than" in read(tar_of(path, entry(long, b"x"))).broken[0]
    assert read(tar_of(path, entry("a" * 3000 + ".txt", b"x"))).dropped == {"no image": 1}


def test_twice_the_same(tmp_path: Path) -> None:
    made = img2dataset.sample(0, 0, 32)
    tally = read(tar_of(tmp_path / "a.tar", entry("x.txt", b"a"), entry("x.txt", b"b"), good=2))
    assert tally.dropped == {"member twice": 1}
    again = [entry(f"{made['__key__']}.{suffix}", made[suffix]) for suffix in ("jpg", "txt")]
    tally = read(tar_of(tmp_path / "a.tar", entry("x.txt", b"a"), *again, good=2))
    assert tally.dropped == {"key twice": 1, "no image": 1}


def test_what_follows_the_end(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes() * 2)
    tally = read(path)
    assert (tally.samples, dict(tally.skipped)) == (2, {"data behind the end of a tar": 1})


@pytest.mark.parametrize(
    ("suffix", "data", "reason"),
    [
        ("json", b"[" * 100_000, "metadata broken"),
        ("json", b"[]", "metadata broken"),
        ("json", b'{"status": "failed_to_download"}', "status failed_to_download"),
        ("json", b"9" * 10_000, "metadata broken"),
        ("txt", b"\xff\xfe", "caption not UTF-8, or too long"),
        ("txt", b"x" * (MAX_CAPTION + 1), "caption not UTF-8, or too long"),
        ("txt", b" \n", "no caption"),
    ],
)
def test_broken_parts_are_counted(suffix: str, data: bytes, reason: str, tmp_path: Path) -> None:
    made = img2dataset.sample(0, 9, 32) | {suffix: data}
    path = tar_of(tmp_path / "a.tar", *(entry(f"x.{name}", made[name]) for name in ("jpg", "txt", "json")))
    tally = read(path)
    assert (tally.samples, dict(tally.dropped)) == (2, {reason: 1})


def test_a_picture_that_unfolds_is_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    img2dataset.Image.new("1", (10_000, 8_000)).save(bomb, "PNG")
    made = img2dataset.sample(0, 9, 32) | {"safetensors": save({"t5.tokens": torch.zeros(1, 2)})}
    del made["jpg"]
    with pytest.raises(ValueError, match="at most 64 million pixels"):
        decode(made | {"png": bomb.getvalue()})


COMMANDS = ["pipe:touch {0}", " pipe:touch {0}", "PIPE:touch {0}", "pipe:touch {0}; cat x.tar", "{{pipe,x}}:touch {0}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_not_run(command: str, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = command.format(canary)
    for refused in (lambda: urls.expand([place]), lambda: list(read_shard(place)), lambda: Index.read(place)):
        with pytest.raises((ValueError, OSError)):
            refused()
    for argv in (
        ["data", "verify", place],
        ["embed", "--shards", place, "--out", str(tmp_path / "out"), "--encoders", "toybox"],
    ):
        assert cli.main(argv) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_named_as_a_command_is_refused(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """webdataset's writer would run it."""
    monkeypatch.chdir(tmp_path)
    sample = Sample("a", img2dataset.Image.new("RGB", (8, 8)), "a", {"t5.tokens": torch.zeros(1, 2)}, {})
    with pytest.raises(ValueError, match="is a command; give a file or a URL"):
        write_shards(Path("pipe:touch canary;"), iter([sample]), 1, {})


@pytest.mark.parametrize("file", ["../a.tar", "/etc/passwd", "pipe:touch canary", "http://127.0.0.1/a.tar", "", "a\\b"])
def test_an_index_names_files_of_its_folder_only(file: str, tmp_path: Path) -> None:
    shards = [{"file": file, "samples": 1, "sha256": "", "bytes": 1}]
    (tmp_path / "index.json").write_text(json.dumps({"format": "ediffi-shards-1", "shards": shards}))
    with pytest.raises(ValueError, match="not a file of its folder"):
        Index.read(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", '{"shards": 3}', '{"shards": [3]}', '{"shards": [], "encoders": 3}']
)
def test_a_broken_index_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match="is not an index of shards"):
        Index.read(tmp_path)
