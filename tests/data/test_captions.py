"""What text encoders do not know of captions, and which they cannot tell apart: told by `embed` and `data stats`."""

import json
from collections import Counter
from pathlib import Path

import open_clip
import pytest

from ediffi.cli import main
from ediffi.data.embedding.captions import Reading, different, recorded, together
from ediffi.data.shards import read_shard, write_tar
from ediffi.hub.models import SHIPPED
from ediffi.registry import encoders
from ediffi.registry.encoders.clip import ClipTextEncoder

ENCODERS = SHIPPED / "toybox" / "encoders"
ANIMALS = ["A frog.", "A crow.", "A duck.", "a  FROG.", "a red frog", "a blue crow"]


@pytest.fixture
def animals(shard_folder: Path, tmp_path: Path) -> list[str]:
    """Shards whose captions are of another world than Toybox's encoders."""
    raws = [raw for path in sorted(shard_folder.glob("*.tar")) for raw in read_shard(path)]
    samples = [{**raw, "txt": ANIMALS[index % 6].encode()} for index, raw in enumerate(raws)]
    for raw in samples:
        del raw["safetensors"]
    folder = tmp_path / "animals"
    folder.mkdir()
    write_tar(folder / "00000.tar", samples[:30])
    write_tar(folder / "00001.tar", samples[30:])
    return [str(folder / "00000.tar"), str(folder / "00001.tar")]


def test_unknown_tokens_and_captions_read_alike_are_counted() -> None:
    """`A frog.` is `a <unk> .` to Toybox's T5, as `A crow.` is; case and white space make no caption different."""
    reading = Reading.of(encoders.t5(str(ENCODERS / "t5")), ANIMALS)
    assert different(ANIMALS) == ["A frog.", "A crow.", "A duck.", "a red frog", "a blue crow"]
    dot = "." in encoders.t5(str(ENCODERS / "t5")).unknown_words("a red circle.")
    assert (reading.captions, reading.alike, reading.tokens) == (5, 3, 15)
    assert reading.unknown == 5 + 3 * dot
    assert reading.words["frog"] == reading.words["crow"] == 2
    assert "frog" in reading.line("t5")
    assert "3 of 5 different captions are read like another one" in reading.line("t5")


def test_a_truncated_caption_is_read_like_its_beginning() -> None:
    long = "a red circle " * 60
    assert Reading.of(encoders.t5(str(ENCODERS / "t5")), [long + "a", long + "blue", "a cross"]).alike == 2


def test_nothing_is_unknown_to_bytes() -> None:
    """Of CLIP's own tokenizer only what it reads alike is told."""
    tiny = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=tiny)
    encoder = ClipTextEncoder(model, open_clip.tokenizer.SimpleTokenizer())
    reading = Reading.of(encoder, ["a ☃", "a 🔴", "a red\u200b dot"])
    assert (encoder.unknown_token, reading.tokens, reading.unknown, reading.alike) == (None, 0, 0, 0)
    assert reading.line("clip_text") == "clip_text: 0 of 3 different captions are read like another one"


def test_the_shipped_clip_has_unknown_words() -> None:
    encoder = encoders.clip_text(str(ENCODERS / "clip"))
    reading = Reading.of(encoder, ["a red frog", "a red circle"])
    assert (reading.tokens, reading.unknown, reading.alike) == (6, 1, 0)


def test_readings_of_shards_are_added_and_come_back_from_json() -> None:
    one, other = Reading(3, 2, 9, 1, Counter(frog=1)), Reading(1, 0, 4, 2, Counter(frog=1, crow=1))
    total = together([{"t5": one}, {"t5": other}, {"clip_text": one}])
    assert total == {"t5": Reading(4, 2, 13, 3, Counter(frog=2, crow=1)), "clip_text": one}
    assert Reading.parse(json.loads(json.dumps(total["t5"].record()))) == total["t5"]
    with pytest.raises(ValueError, match="broken record"):
        Reading.parse({"captions": "many"})


def test_a_run_does_not_begin_with_an_encoder_of_another_world(animals: list[str], tmp_path: Path, capsys) -> None:
    words = ["embed", "--shards", json.dumps(animals), "--out", str(tmp_path / "out"), "--encoders", "toybox"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "of the tokens of the captions are unknown (among them" in said
    assert "--allow-unknown" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_what_was_allowed_is_warned_of_and_recorded(animals: list[str], tmp_path: Path, capsys) -> None:
    """By `embed`, in the index, and by `data stats` of the embedded shards; and of any shards for named encoders."""
    out = str(tmp_path / "out")
    words = ["embed", "--shards", json.dumps(animals), "--out", out, "--encoders", "toybox", "--allow-unknown"]
    assert main(words) == 0
    assert "6 of 10 different captions are read like another one" in capsys.readouterr().err, "of both shards"
    found = recorded([f"{out}/00000.tar", f"{out}/00001.tar"])
    assert found["t5"].record() == together([{"t5": found["t5"]}])["t5"].record()
    assert (found["t5"].captions, found["t5"].alike) == (10, 6)
    assert main(["data", "stats", out, "--output", str(tmp_path / "stats.json")]) == 0
    assert "captions t5: " in (embedded := capsys.readouterr().out)
    assert main(["data", "stats", str(Path(animals[0]).parent), "--encoders", "toybox"]) == 0
    plain = capsys.readouterr().out
    for line in (line for line in plain.splitlines() if line.startswith("captions ")):
        assert line in embedded
    content = json.loads((tmp_path / "stats.json").read_text())
    assert content["captions"]["t5"] == found["t5"].record()


def test_encoders_of_this_world_are_told_without_a_warning(shard_folder: Path, tmp_path: Path, capsys) -> None:
    words = ["embed", "--shards", str(shard_folder), "--out", str(tmp_path / "out"), "--encoders", "toybox"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert told.out.count("0 of 48 different captions are read like another one") == 4, "at the beginning and the end"
    assert "captions" not in told.err
