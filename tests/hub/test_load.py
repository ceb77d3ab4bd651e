"""Loading from the Hub: the same picture, only what is asked for, from the cache without a network, and nothing run."""

import hashlib
import json
import pickle
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from ediffi.cli import main
from ediffi.diffusion.noise import ROOT
from ediffi.hub import finding
from ediffi.hub.config import Part, read_config
from ediffi.hub.finding import ModelAddress, find, parse_address
from ediffi.hub.publish import Content, upload
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import build_denoiser, load_expert, locate
from tests.hub.conftest import REPO
from tests.hub.loopback import Hub

PROMPT = "a red circle left of a blue square"


def picture(model: str | Path, **options) -> torch.Tensor:
    cascade = Cascade.from_pretrained(model, **options)
    return cascade(PROMPT, seed=3).stages[cascade.stages[-1].name]


def names(content: Content) -> set[str]:
    """The files that a model consists of."""
    return {name for name in content if name.endswith((".json", ".safetensors"))}


def changed(content: Content, **edits) -> dict[str, bytes]:
    """A publication whose config is edited."""
    config = json.loads(content["config.json"])
    for key, edit in edits.items():
        config[key] = edit(config[key]) if callable(edit) else edit
    return {**content, "config.json": json.dumps(config).encode()}


def test_published_and_loaded_it_paints_the_same_picture(hub: Hub, content: Content, model_folder: Path) -> None:
    upload(content, REPO)
    hub.requests.clear()
    wanted = picture(model_folder)
    assert torch.equal(picture(REPO), wanted)
    assert sorted(hub.fetched()) == sorted(names(content)), "each file once, and no other"
    assert not any(request.token for request in hub.requests if request.path.startswith("/cdn/"))
    hub.requests.clear()
    assert torch.equal(picture(f"hf://{REPO}", expert_residency="stream"), wanted)
    assert hub.fetched() == []


def test_only_the_stages_asked_for_come(published: Hub, model_folder: Path) -> None:
    cascade = Cascade.from_pretrained(REPO, stages=["base"])
    assert [stage.name for stage in cascade.stages] == ["base"]
    fetched = published.fetched()
    assert "base.safetensors" in fetched
    assert "encoders/t5/model.safetensors" in fetched
    assert "sr64.safetensors" not in fetched
    with pytest.raises(ValueError, match="stages must be the first of base, sr64"):
        Cascade.from_pretrained(REPO, stages=["sr64"])
    with pytest.raises(ValueError, match="tiny has no stage 'sr46'; its stages are base, sr64"):
        Cascade.from_pretrained(REPO, stages=["base", "sr46"])


def test_a_trunk_to_grow_from_is_one_file(published: Hub, model_folder: Path) -> None:
    entry = read_config(model_folder)["stages"][1]
    network = build_denoiser(Part(**entry["denoiser"]))
    load_expert(REPO, "sr64", ROOT, network)
    assert published.fetched() == ["config.json", "sr64.safetensors"]


def test_every_command_takes_a_place_of_the_hub(published: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", f"{REPO}@main"]) == 0
    assert "base.safetensors" in capsys.readouterr().out
    assert main(["experts", "lab/none"]) == 1
    assert capsys.readouterr().err == (
        "ediffi: error: there is no folder 'lab/none', and the Hub has no model lab/none, or it is private and needs "
        "`hf auth login`\n"
    )


def test_a_name_of_a_list_is_a_pinned_place(
    published: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    commit = published.repositories[REPO].branches["main"]
    (tmp_path / "models.yaml").write_text(f"ours: {{place: {REPO}, revision: {commit}}}\n")
    monkeypatch.setenv("EDIFFI_MODELS", str(tmp_path / "models.yaml"))
    published.put(REPO, {**changed(content, name="moved on")})
    assert find("ours").folder.name == commit
    assert read_config(locate("ours"))["name"] == "tiny"
    assert read_config(locate(REPO))["name"] == "moved on"


def test_a_folder_here_wins_over_the_hub(
    published: Hub, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, tmp_path / REPO)
    assert find(REPO).folder == Path(REPO)
    assert published.requests == []
    assert find(f"hf://{REPO}").address == ModelAddress(REPO)
    with pytest.raises(ValueError, match="lab/tiny is a folder and has no revision 'main'"):
        find(REPO, "main")


@pytest.mark.parametrize(
    ("text", "revision", "place"),
    [
        ("a/b", None, ModelAddress("a/b")),
        ("a/b", "v1", ModelAddress("a/b", "v1")),
        ("a/b@refs/pr/1", None, ModelAddress("a/b", "refs/pr/1")),
        ("hf://a/b@v1.0", "v1.0", ModelAddress("a/b", "v1.0")),
        ("toybox", None, None),
        ("a/b/c", None, None),
        ("./a/b", None, None),
        ("/a/b", None, None),
    ],
)
def test_places_as_people_type_them(text: str, revision: str | None, place: ModelAddress | None) -> None:
    assert parse_address(text, revision) == place


@pytest.mark.parametrize(
    ("text", "revision", "message"),
    [
        ("hf://tiny", None, "names no repository"),
        ("a/b@v1", "v2", "has the revision 'v1', but revision is 'v2'"),
        ("a/b@", None, "revision must be"),
        ("a/b@../c", None, "revision must be"),
    ],
)
def test_what_is_no_place_is_said(text: str, revision: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_address(text, revision)


# The cache, and no network.


def test_without_a_network_the_cache_answers_at_once(
    published: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    finding._warn.cache_clear()
    locate(REPO)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}")
    begun = time.perf_counter()
    commit = locate(REPO).name
    assert caplog.messages == [f"the Hub cannot be reached; {REPO} is read from the cache, commit {commit[:12]}"]
    assert main(["experts", "lab/other"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("ediffi: error: there is no folder 'lab/other', and the Hub cannot be reached at http")
    assert time.perf_counter() - begun < 1


def test_offline_the_cache_answers_at_once(published: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    locate(REPO)
    published.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    begun = time.perf_counter()
    assert (locate(REPO) / "sr64.safetensors").is_file()
    with pytest.raises(FileNotFoundError, match="lab/other is not in the cache of the Hub, and HF_HUB_OFFLINE=1"):
        locate("lab/other")
    assert time.perf_counter() - begun < 1
    assert published.requests == []


def test_a_commit_that_is_there_is_not_asked_for_again(published: Hub) -> None:
    commit = published.repositories[REPO].branches["main"]
    locate(REPO, commit)
    published.requests.clear()
    locate(REPO, commit)
    assert published.requests == []
    with pytest.raises(FileNotFoundError, match="not this revision: lab/tiny@v9"):
        locate(REPO, "v9")


def test_half_a_cache_is_completed_with_the_rest(published: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = locate(REPO)
    for path in (snapshot / "sr64.safetensors", snapshot / "encoders/clip/tokenizer.json"):
        path.resolve().unlink()
        path.unlink()
    published.requests.clear()
    with pytest.raises(
        FileNotFoundError, match=r"lab/tiny .* sr64\.safetensors, encoders/clip/tokenizer\.json is missing"
    ):
        locate(REPO, local_files_only=True)
    assert published.requests == []
    assert locate(REPO) == snapshot
    assert sorted(published.fetched()) == ["encoders/clip/tokenizer.json", "sr64.safetensors"]


def test_a_download_that_is_cut_goes_on_where_it_was(
    published: Hub, content: Content, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.cut_after = 500_000
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    snapshot = locate(REPO)
    ranges = [request.range for request in published.requests if request.range]
    # Asked once, or once more where a busy machine answers too late.
    assert set(ranges) == {f"bytes={500_000 >> 16 << 16}-"}, "from the last whole portion on"
    for name in names(content):
        assert (snapshot / name).read_bytes() == content[name]


@pytest.mark.parametrize("name", ["base.safetensors", "encoders/t5/model.safetensors", "encoders/clip/tokenizer.json"])
def test_a_file_that_was_changed_is_refused(published: Hub, content: Content, name: str) -> None:
    data = bytearray(content[name])
    data[-3] ^= 1
    published.put(REPO, {**content, name: bytes(data)})
    with pytest.raises(ValueError, match=rf"{Path(name).name} has sha256 .* truncated or changed"):
        Cascade.from_pretrained(REPO)


# What is no model.


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.safetensors": b""}, r"lab/odd has no config\.json"),
        ({"config.json": b'{"model_type": "t5"}'}, "has the format None; .* so it is no model of ediffi"),
        ({"config.json": b"<html>"}, "is not JSON"),
        ({"config.json": b'{"format": "ediffi-cascade-9"}'}, "'ediffi-cascade-9'.* newer one: pip install --upgrade"),
        ({"config.json": b'{"format": "ediffi-cascade-2"}'}, "is not a complete ediffi-cascade-2"),
        ({"config.json": b'{"format": "ediffi-cascade-2", "stages": [1], "encoders": {}}'}, "is not a complete"),
    ],
)
def test_a_repository_of_something_else_is_said(hub: Hub, files: dict[str, bytes], message: str) -> None:
    hub.put("lab/odd", files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Cascade.from_pretrained("lab/odd")


def test_a_part_that_is_unknown_here_names_its_plugin(hub: Hub, content: Content) -> None:
    def mine(stages: list) -> list:
        stages[0]["denoiser"]["name"] = "unet_mine"
        return stages

    made = {"denoisers/unet_mine": "nice-nets 1.2"}
    hub.put(REPO, changed(content, stages=mine, packages=made))
    with pytest.raises(ValueError, match=r"lab/tiny: no denoiser named 'unet_mine'; .*the plug-in nice-nets 1\.2"):
        Cascade.from_pretrained(REPO)
    hub.put(REPO, changed(content, stages=mine, packages={"denoisers/unet_mine": "\x1b[2J; pip install evil"}))
    with pytest.raises(ValueError, match=r"no denoiser named 'unet_mine'; .*may not be installed"):
        Cascade.from_pretrained(REPO)
    assert hub.fetched() == ["config.json", "config.json"], "weights do not come for nothing"


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"files": {"../../evil.json": "00" * 32}}, "which is no file of an encoder in its folder"),
        ({"files": {"encoders/t5/code.py": "00" * 32}}, "which is no file of an encoder"),
        ({"encoders": {"t5": {"name": "t5", "arguments": {"path": "/etc"}}}}, "leads out of its folder"),
        ({"encoders": {"t5": {"name": "t5", "arguments": {"path": "../x"}}}}, "leads out of its folder"),
    ],
)
def test_a_config_stays_in_its_folder(hub: Hub, content: Content, edits: dict, message: str) -> None:
    hub.put(REPO, changed(content, **edits))
    with pytest.raises(ValueError, match=message):
        Cascade.from_pretrained(REPO)


class Canary:
    """A pickle that leaves a file when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return Path.touch, (self.place,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """The file that must not appear."""
    place = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(place)))
    assert place.exists(), "the canary sings"
    place.unlink()
    return place


def test_pickles_beside_a_model_do_not_even_come(published: Hub, content: Content, canary: Path) -> None:
    evil = pickle.dumps(Canary(canary))
    extra = ("pytorch_model.bin", "encoders/t5/pytorch_model.bin", "encoders/clip/open_clip_pytorch_model.bin", "x.pkl")
    published.put(REPO, {**content, **dict.fromkeys(extra, evil), "encoders/t5/modeling.py": b"raise SystemExit"})
    picture(REPO, stages=["base"])
    assert not set(extra) & set(published.fetched())
    assert not canary.exists()


@pytest.mark.parametrize(
    "name", ["base.safetensors", "encoders/t5/model.safetensors", "encoders/clip/open_clip_model.safetensors"]
)
@pytest.mark.parametrize("whole", [True, False], ids=["pickle", "torch.save"])
def test_a_pickle_under_a_good_name_does_not_run(
    hub: Hub, content: Content, canary: Path, name: str, whole: bool, tmp_path: Path
) -> None:
    if whole:
        evil = pickle.dumps(Canary(canary))
    else:
        torch.save(Canary(canary), tmp_path / "evil")
        evil = (tmp_path / "evil").read_bytes()
    digest = hashlib.sha256(evil).hexdigest()

    def stages(entries: list) -> list:
        if name == "base.safetensors":
            entries[0]["experts"][0]["sha256"] = digest
        return entries

    files = {
        key: digest if key == name else value for key, value in json.loads(content["config.json"])["files"].items()
    }
    hub.put(REPO, {**changed(content, stages=stages, files=files), name: evil})
    with pytest.raises(ValueError, match=Path(name).name.replace(".", r"\.")):
        Cascade.from_pretrained(REPO)
    assert not canary.exists()


@pytest.mark.parametrize("suffix", ["ckpt", "bin", "pt", "pth", "pkl"])
def test_a_pickle_is_no_model(canary: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(Canary(canary)))
    assert main(["sample", PROMPT, "--model", str(path), "--output", str(tmp_path / "x.png")]) == 1
    told = capsys.readouterr().err
    assert "is a pickle, which can run code when it is read" in told
    assert f"`ediffi convert {path} model.safetensors`" in told
    assert not canary.exists()


def test_a_repository_without_a_list_of_files_loads_too(hub: Hub, content: Content, model_folder: Path) -> None:
    """As `hf upload` leaves an older folder: what belongs to an encoder is told by its name."""
    config = json.loads(content["config.json"])
    del config["files"]
    evil = {"encoders/t5/pytorch_model.bin": b"x", "encoders/t5/modeling.py": b"x"}
    hub.put(REPO, {**content, **evil, "config.json": json.dumps(config).encode()})
    assert torch.equal(picture(REPO, stages=["base"]), picture(model_folder, stages=["base"]))
    assert not set(evil) & set(hub.fetched())


# Written again, and in half precision.


def test_saved_again_it_is_the_same_bytes(published: Hub, content: Content, tmp_path: Path) -> None:
    cascade = Cascade.from_pretrained(REPO, dtype="bfloat16")
    place = cascade.save_pretrained(tmp_path / "again")
    for name in names(content):
        assert (place / name).read_bytes() == content[name], name
    with pytest.raises(FileExistsError):
        cascade.save_pretrained(place)
    base = cascade.up_to("base").save_pretrained(tmp_path / "base")
    assert [entry["name"] for entry in read_config(base)["stages"]] == ["base"]


def test_what_was_changed_in_memory_is_what_is_saved(model_folder: Path, tmp_path: Path) -> None:
    cascade = Cascade.from_pretrained(model_folder)
    base = cascade.up_to("base")
    before = base(PROMPT, seed=3).stages["base"]
    with torch.no_grad():
        for parameter in cascade.stages[0].denoiser.parameters():
            parameter.mul_(2)  # exact in bfloat16
    after = base(PROMPT, seed=3).stages["base"]
    assert not torch.equal(before, after)
    again = Cascade.from_pretrained(cascade.save_pretrained(tmp_path / "again"), stages=["base"])
    assert torch.equal(again(PROMPT, seed=3).stages["base"], after)
    assert (tmp_path / "again/sr64.safetensors").read_bytes() == (model_folder / "sr64.safetensors").read_bytes()


def test_a_cascade_built_in_python_cannot_name_its_parts(model_folder: Path, tmp_path: Path) -> None:
    loaded = Cascade.from_pretrained(model_folder)
    built = Cascade("mine", loaded.encoders, loaded.stages)
    with pytest.raises(ValueError, match="'mine' was built in Python, so the registry names"):
        built.save_pretrained(tmp_path / "x")


@pytest.mark.parametrize("residency", ["resident", "stream"])
def test_half_precision_halves_the_weights_and_hardly_the_picture(model_folder: Path, residency: str) -> None:
    exact, half = (
        Cascade.from_pretrained(model_folder, expert_residency=residency, dtype=dtype, stages=["base"])
        for dtype in (torch.float32, torch.bfloat16)
    )

    def size(cascade: Cascade) -> int:
        return sum(p.numel() * p.element_size() for p in cascade.stages[0].denoiser.parameters())

    assert size(half) < 0.55 * size(exact)
    one, other = exact(PROMPT, seed=3).stages["base"], half(PROMPT, seed=3).stages["base"]
    assert other.dtype == torch.float32
    assert 0 < (one - other).abs().mean() < 0.05
    again = half.to(dtype="float32")
    assert again.precision == {"dtype": "float32", "compile": False}
    assert torch.equal(again(PROMPT, seed=3).stages["base"], one), "the file has bfloat16, which float32 holds exactly"
    assert all(p.dtype == torch.float32 for p in again.stages[0].denoiser.parameters())
    torch.testing.assert_close(exact.to(dtype="bfloat16")(PROMPT, seed=3).stages["base"], other, atol=0, rtol=0)
