"""Patterns name files and URLs to read; nothing in them is run."""

from pathlib import Path

import pytest
import webdataset

from ediffi.io import urls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards and another file."""
    for name in ("00000.tar", "00001.tar", "00002.tar", "index.json"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_braces_wildcards_and_folders_name_the_same_shards(folder: Path) -> None:
    wanted = [str(folder / f"{shard:05d}.tar") for shard in range(3)]
    assert urls.expand([f"{folder}/{{00000..00002}}.tar"]) == wanted
    assert urls.expand([f"{folder}/*.tar"]) == wanted
    assert urls.expand([str(folder)]) == wanted
    assert urls.expand([f"{folder}/./{{00000,00001}}.tar", wanted[2]]) == wanted
    assert urls.expand([f"file://{folder}"]) == [f"file://{path}" for path in wanted]


def test_braces_are_those_of_webdataset() -> None:
    pattern = "s3://bucket/{a,b}-{0008..0011}.tar"
    assert urls.expand([pattern]) == webdataset.shardlists.expand_urls(pattern)


def test_a_file_whose_name_has_signs_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].tar").touch()
    assert urls.expand([str(tmp_path / "a[1].tar")]) == [str(tmp_path / "a[1].tar")]
    (tmp_path / "b[1]").mkdir()
    (tmp_path / "b[1]" / "0.tar").touch()
    assert urls.expand([str(tmp_path / "b[1]")]) == [str(tmp_path / "b[1]" / "0.tar")]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["{}"], r"no \.tar files in"),
        (["{}/*.tar"], "no shards in"),
        ([], "an empty list"),
        (["a.tar", "./a.tar"], "named twice"),
        (["{{a.tar"], "braces"),
        (["{{0..99999999}}.tar"], "more than 1,000,000"),
        (["{{0..999}}{{0..1000}}.tar"], "more than 1,000,000"),
        ([""], "names no file"),
        (["a\0.tar"], "names no file"),
        (["pipe:touch x"], "is a command"),
        ([" PIPE:touch x"], "is a command"),
        (["{{pipe,x}}:touch x"], "is a command"),
        (["gopen://x.tar"], "cannot be read from"),
        (["python://x"], "cannot be read from"),
        (["simplecache::file:///x.tar"], "cannot be read from"),
        (["zip://a::b"], "cannot be read from"),
        (["ais://x/y"], "cannot be read from"),
    ],
)
def test_patterns_that_name_nothing_to_read(patterns: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        urls.expand([pattern.format(tmp_path) for pattern in patterns])


def test_as_many_shards_as_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "MAX_SHARDS", 6)
    assert len(urls.expand(["{0..5}.tar"])) == len(urls.expand(["{a,b}{0..2}.tar"])) == 6
    for pattern in ("{0..6}.tar", "{a,b}{0..3}.tar"):
        with pytest.raises(ValueError, match="more than"):
            urls.expand([pattern])


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_are_read_by_path_and_by_url(scheme: str, folder: Path) -> None:
    url = urls.join(f"{scheme}{folder}", "00001.tar")
    assert url == f"{scheme}{folder}/00001.tar"
    assert urls.read_bytes(url) == b"00001.tar"
    assert (urls.size(url), urls.exists(url), urls.parent(url)) == (9, True, f"{scheme}{folder}")
    missing = urls.join(f"{scheme}{folder}", "none.tar")
    assert not urls.exists(missing)
    with pytest.raises(OSError, match=r"none\.tar"):
        urls.read_bytes(missing)


def test_passwords_and_signatures_are_not_shown() -> None:
    assert urls.redact("https://me:secret@host/a.tar?signature=x") == "https://host/a.tar"
    assert urls.redact("/data/a@b?.tar") == "/data/a@b?.tar"
    error = RuntimeError("secret\nand more")
    with (
        pytest.raises(OSError, match=r"^https://host/a\.tar cannot be read: secret$"),
        urls.naming_errors("https://me:secret@host/a.tar"),
    ):
        raise error
