"""Publishing: cut anywhere it is completed by the same call; what must not go up does not; the card says what is so."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import yaml
from filelock import FileLock
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

from ediffi.cli import main
from ediffi.diffusion.experts import Expert
from ediffi.diffusion.noise import ROOT, Interval, LogNormal, NoiseInterval
from ediffi.evaluation import model_index as entries
from ediffi.evaluation import report
from ediffi.hub.card import card as model_card
from ediffi.hub.config import Part
from ediffi.hub.models import SHIPPED
from ediffi.hub.publish import Content, PublicationOptions, publication, upload
from ediffi.io import png
from ediffi.io.files import sha256
from ediffi.pipeline.cascade import Cascade, paint_samples
from ediffi.pipeline.checkpoint import locate
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.trained_stage import TrainedExpert, TrainedStage, save_cascade
from ediffi.registry import denoisers
from ediffi.training.checkpoint import describe
from ediffi.training.finished_run import model_folder as model_folder_of
from ediffi.training.growth.compose import StageRecipe, compose
from tests.evaluation.evaluations import evaluation
from tests.hub.conftest import REPO
from tests.hub.loopback import Hub, Request
from tests.world import TINY_BASE

PROMPT = "a red circle left of a blue square"
OPTIONS = PublicationOptions(REPO, "apache-2.0")


@contextmanager
def of_run(source: Path) -> Iterator[tuple[Content, list[str]]]:
    """The publication of a folder of training, as `ediffi publish` makes it."""
    with (
        TemporaryDirectory() as beside,
        publication(model_folder_of(source, Path(beside)), OPTIONS, paint_samples) as found,
    ):
        yield found


def complete(hub: Hub, content: Content, repository: str = REPO) -> bool:
    """Whether a repository holds just what was published."""
    there = hub.files(repository)
    there.pop(".gitattributes", None)
    return there == content


# Whole, or not there.


def test_a_model_is_one_commit(hub: Hub, content: Content) -> None:
    address = upload(content, REPO)
    made = list(hub.repositories[REPO].commits.items())
    assert [set(tree) - {".gitattributes"} for _, tree in made] == [set(), set(content)]
    assert address == f"{hub.url}/{REPO}/commit/{made[-1][0]}"
    assert complete(hub, content)
    hub.requests.clear()
    upload(content, REPO)
    assert len(hub.repositories[REPO].commits) == 2, "nothing is committed twice"
    assert len(hub.uploaded) == len(set(hub.uploaded)) == sum(n.endswith((".safetensors", ".png")) for n in content)


@pytest.fixture(scope="session")
def stage_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage of two experts as `ediffi grow` leaves it: without encoders, so it paints nothing for its card."""
    torch.manual_seed(0)
    networks = [denoisers.create("unet_toybox", **TINY_BASE) for _ in ROOT.children]
    halves = [
        TrainedExpert(Expert(half, ROOT, 5), network.state_dict())
        for half, network in zip(ROOT.children, networks, strict=True)
    ]
    stage = TrainedStage("base", 16, Part("unet_toybox", TINY_BASE), LogNormal(), halves, Sampling())
    return save_cascade(tmp_path_factory.mktemp("grown") / "stage", "base", {}, None, [stage])


@pytest.mark.parametrize("how", [403, 500, "cut"])
def test_cut_at_any_request_the_same_call_completes_it(
    hub: Hub, content: Content, how: int | str, impatient: None
) -> None:
    small = {name: content[name] for name in ("sr64.safetensors", "samples.png", "README.md", "config.json")}
    upload(small, "lab/counted")
    count = len(hub.requests)
    assert count == 10
    for number in range(count):
        hub.store.clear()
        hub.uploaded.clear()
        repository, begin = f"lab/cut{number}", len(hub.requests)
        hub.fault = lambda n, request, at=begin + number: how if n >= at else None
        with pytest.raises(OSError, match=r"the Hub|the token") as caught:
            upload(small, repository)
        assert "\n" not in str(caught.value)
        assert repository not in hub.repositories or "config.json" not in hub.files(repository), "no half loads"
        hub.fault = lambda n, request: None
        upload(small, repository)
        assert complete(hub, small, repository)
        assert len(hub.uploaded) == len(set(hub.uploaded)), "what arrived is not sent again"


@pytest.mark.parametrize("how", [500, "cut"])
def test_a_fault_that_passes_is_not_even_seen(hub: Hub, content: Content, how: int | str, impatient: None) -> None:
    puts: list[int] = []

    def fault(number: int, request: Request) -> int | str | None:
        if request.method == "PUT":
            puts.append(number)
        return how if request.method == "PUT" and len(puts) % 2 else None

    hub.fault = fault
    upload(content, REPO)
    assert complete(hub, content)


def test_a_newer_model_replaces_the_earlier_one_at_once(hub: Hub, content: Content) -> None:
    hub.put(REPO, dict(content))
    config = json.loads(content["config.json"])
    config["stages"] = config["stages"][:1]
    newer = {name: file for name, file in content.items() if name != "sr64.safetensors"}
    newer |= {"base.safetensors": b"newer", "config.json": json.dumps(config).encode()}
    hub.fault = lambda number, request: 403 if "/commit/" in request.path else None
    with pytest.raises(PermissionError):
        upload(newer, REPO)
    assert complete(hub, content), "the earlier model is still whole"
    hub.fault = lambda number, request: None
    upload(newer, REPO)
    assert complete(hub, newer), "a file that the newer model does not have is deleted"


def test_a_commit_of_another_process_is_not_overwritten(hub: Hub, content: Content) -> None:
    hub.put(REPO, dict(content))

    def fault(number: int, request: Request) -> None:
        if request.method == "PUT":
            hub.put(REPO, {**content, "README.md": b"---\nlibrary_name: ediffi\n---\nby hand"})

    hub.fault = fault
    with pytest.raises(OSError, match="412"):
        upload({**content, "base.safetensors": b"newer"}, REPO)
    assert hub.files(REPO)["README.md"].endswith(b"by hand")


def test_killed_while_it_uploads_the_same_command_completes_it(hub: Hub, content: Content, tmp_path: Path) -> None:
    place = tmp_path / "content"
    for name, file in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(file)
    names = [name for name in content if name != "samples.png"]
    program = (
        "import sys; from pathlib import Path; from ediffi.hub.publish import upload; place = Path(sys.argv[1]);"
        f"print(upload({{name: place / name for name in {names}}}, {REPO!r}))"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    hub.hold.clear()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert hub.held.wait(60), "an upload is under way"
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    hub.hold.set()
    assert "config.json" not in hub.files(REPO)
    upload({name: content[name] for name in names}, REPO)
    assert complete(hub, {name: content[name] for name in names})


# Who may, and where.


@pytest.mark.parametrize(
    ("token", "repository", "message"),
    [
        ("hf_secret_that_is_wrong", REPO, "does not accept the token"),
        ("hf_theirs", REPO, r"no permission .* lab/tiny \(you don't have the rights"),
        (None, REPO, "Not logged in"),
    ],
)
def test_who_may_not_is_told_so_and_no_token_is_printed(
    hub: Hub, model_folder: Path, token: str | None, repository: str, message: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], content: Content,
) -> None:  # fmt: skip
    hub.put(REPO, dict(content))
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermissionError, match=message) as caught:
        upload(content, repository)
    printed = capfd.readouterr()
    for text in (str(caught.value), printed.out, printed.err):
        assert not token or token not in text


def test_a_token_does_not_stand_in_what_the_hub_says(hub: Hub, content: Content, monkeypatch) -> None:
    from tests.hub import loopback

    def tell(self: loopback.Handler, repo: str) -> None:
        raise loopback.Refusal(403, message=f"your token {self.token} is odd")

    monkeypatch.setattr(loopback.Handler, "may_write", tell)
    with pytest.raises(PermissionError, match=r"your token \*\*\* is odd"):
        upload(content, REPO)


@pytest.mark.parametrize(
    "files",
    [
        {"README.md": b"---\nlibrary_name: transformers\n---\n", "model.safetensors": b"x", "config.json": b"{}"},
        {"README.md": b"# nothing said\n", "pytorch_model.bin": b"x"},
    ],
)
def test_what_is_somebody_elses_stays(hub: Hub, content: Content, files: dict[str, bytes]) -> None:
    hub.put(REPO, files)
    with pytest.raises(ValueError, match=r"lab/tiny holds files that are not of a model"):
        upload(content, REPO)
    assert hub.files(REPO) == files
    assert hub.uploaded == []


def test_a_card_that_was_written_anew_is_still_ours(hub: Hub, content: Content) -> None:
    hub.put(REPO, {**content, "README.md": b"# by hand\n"})
    upload(content, REPO)
    assert complete(hub, content)


def test_a_branch_is_made_and_main_stays(hub: Hub, content: Content) -> None:
    hub.put(REPO, {".gitattributes": b""})
    upload(content, REPO, revision="v2")
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert set(hub.files(REPO, "v2")) == {".gitattributes", *content}
    assert (locate(f"{REPO}@v2") / "base.safetensors").read_bytes() == content["base.safetensors"]


def test_private_is_private_or_refused(hub: Hub, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(content, REPO, private=True)
    assert hub.repositories[REPO].private
    locate(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    with pytest.raises(FileNotFoundError, match="private"):
        locate(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    hub.put("lab/public", {})
    with pytest.raises(ValueError, match="lab/public is public"):
        upload(content, "lab/public", private=True)


# The command.


def test_a_dry_run_writes_the_folder_and_uses_no_network(
    hub: Hub, stage_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(stage_folder, tmp_path / "mine"))
    (tmp_path / "base.yaml").write_text("model: {}\n")
    words = ["publish", str(source), REPO, "--license", "apache-2.0", "--dry-run", "--recipe"]
    for _ in range(2):  # the second replaces the first
        assert main([*words, str(tmp_path / "base.yaml")]) == 0
    told = capsys.readouterr().out
    place = tmp_path / "mine-published"
    written = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert set(written) == {path.name for path in source.iterdir()} | {"README.md", "recipes/base.yaml"}
    assert all(written[path.name] == path.read_bytes() for path in source.iterdir())
    assert f"{sum(map(len, written.values())):>12,}  bytes in {len(written)} files for {REPO}\n{place}\n" in told
    assert hub.requests == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.yaml", "mine", "mine-published"]


def picture(model: Path | str) -> torch.Tensor:
    return Cascade.from_pretrained(model, stages=["base"])(PROMPT, seed=3).stages["base"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--license is missing"),
        (["--license", "Do what you want"], 1, "license must be"),
        (["--license", "mit", "--revision", "../x"], 1, "revision must be a branch, got '../x'"),
        (["--license", "mit", "--recipe", "none.yaml"], 1, "no file or recipe named 'none.yaml'"),
        (["--license", "mit", "--results", "nowhere"], 1, "no results.json in nowhere"),
    ],
)
def test_a_wrong_command_is_one_line(
    hub: Hub, model_folder: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(model_folder), REPO, *words]) == code
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert hub.requests == []


@pytest.mark.parametrize("repository", ["tiny", "lab/a/b", "lab/..", "lab/a b", "https://x.org/lab/a"])
def test_a_name_that_cannot_be_one_is_refused(repository: str) -> None:
    with pytest.raises(ValueError, match="repository must be ORG/REPO"):
        PublicationOptions(repository, "mit")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("base.safetensors.tmp", 10, r"base\.safetensors\.tmp is incomplete"),
        ("old.safetensors", 10, r"old\.safetensors belongs to no stage"),
        ("encoders/t5/pytorch_model.bin", 10, r"pytorch_model\.bin belongs to no stage"),
        ("data.tar", 3 << 20, r"data\.tar belongs to no stage"),
    ],
)
def test_a_folder_that_is_not_tidy_is_refused(
    model_folder: Path, tmp_path: Path, name: str, size: int, message: str
) -> None:
    source = Path(shutil.copytree(model_folder, tmp_path / "mine"))
    (source / name).write_bytes(bytes(size))
    with pytest.raises(ValueError, match=message), of_run(source):
        pass


def test_an_encoder_of_this_machine_is_refused(model_folder: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(model_folder, tmp_path / "mine"))
    config = json.loads((source / "config.json").read_text())
    config["encoders"]["t5"]["arguments"]["path"] = str(model_folder / "encoders" / "t5")
    (source / "config.json").write_text(json.dumps(config))
    with (
        pytest.raises(ValueError, match=r"the encoder t5 is read from '/.*' on this machine"),
        publication(source, OPTIONS, paint_samples),
    ):
        pass


# The card.


def test_the_card_is_read_back(content: Content) -> None:
    card = ModelCard(content["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
        "ediffi",
        "text-to-image",
        "apache-2.0",
    )
    assert {"ediffi", "text-to-image"} <= set(card.data.tags)
    for wanted in (
        "pip install ediffi",
        f'ediffi sample "a red circle left of a blue square" --model {REPO}',
        f'Cascade.from_pretrained("{REPO}")',
        "| base | 16² | unet_toybox | 0 to inf |",
        "| sr64 | 64² | efficient_toybox64 | 0 to inf |",
        "![samples](samples.png)",
        "## Limitations",
        "16² → 64², with 2 expert denoisers in 2 stages",
    ):
        assert wanted in card.text, wanted


def test_the_card_of_a_model_with_a_plugin_says_to_install_it(stage_folder: Path) -> None:
    config = {**json.loads((stage_folder / "config.json").read_text()), "packages": {}}
    text = model_card(REPO, "mit", stage_folder, config)
    assert "pip install ediffi\n" in text
    own = {"denoisers/unet_mine": "our-parts 1.2.0", "samplers/x": "our-parts 1.2.0", "encoders/y": "evil; rm"}
    text = model_card(REPO, "mit", stage_folder, {**config, "packages": own})
    assert "pip install ediffi 'our-parts>=1.2.0'\n" in text
    assert "evil" not in text


def test_the_samples_are_the_models_own(content: Content, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_bytes(content["samples.png"])
    settings = png.settings_of(tmp_path / "samples.png")
    painted = Cascade.from_pretrained(model_folder)(settings["prompt"], seed=settings["seed"]).images
    grid = Image.open(tmp_path / "samples.png")
    assert grid.size == (64 * len(painted), 64)
    assert grid.crop((64, 0, 128, 64)).tobytes() == painted[1].tobytes()


def test_results_go_into_card_and_repository(stage_folder: Path, tmp_path: Path) -> None:
    results = evaluation(model="tiny")
    results.write(tmp_path / "judged")
    report.write(results, tmp_path / "judged")
    with publication(stage_folder, dataclasses.replace(OPTIONS, evaluations=[tmp_path / "judged"]), paint_samples) as (
        content,
        _,
    ):
        card = ModelCard(content["README.md"].decode())
        assert card.data.eval_results == entries.eval_results(results)
        assert card.data.model_name == REPO
        listed = yaml.safe_load(content[".eval_results/coco2014-suite.yaml"].read_text())
        source = f"https://huggingface.co/{REPO}/blob/main/results/coco2014-suite/report.html"
        assert parse_eval_result_entries(listed) == entries.entries(results, source_url=source)
        assert {"results/coco2014-suite/results.json", "results/coco2014-suite/report.html"} <= set(content)
        assert "| guidance 3 | 12.12 |" in card.text
    assert list(content)[-1] == "config.json"


def test_numbers_of_another_model_are_refused(stage_folder: Path, tmp_path: Path) -> None:
    results = evaluation()
    for digest, fits in ((sha256(stage_folder / "config.json"), True), ("ab" * 32, False)):
        for point in results.points:
            point.settings["model_sha256"] = digest
        results.write(tmp_path / "judged")
        order = dataclasses.replace(OPTIONS, evaluations=[tmp_path / "judged"])
        if fits:
            with publication(stage_folder, order, paint_samples):
                continue
        with (
            pytest.raises(ValueError, match=r"another model: .* sha256 abababababab"),
            publication(stage_folder, order, paint_samples),
        ):
            pass


# What else can be published.


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """The folder of a training run as `ediffi fit` leaves it, its files written by the house's own functions."""

    def write(steps: int = 8, region: NoiseInterval = ROOT) -> Path:
        place = tmp_path / "first"
        (place / "checkpoints").mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        network = denoisers.create("unet_toybox", **TINY_BASE)
        state = {f"denoiser.{key}": value for key, value in network.state_dict().items()}
        checkpoint = {"expert": describe(LogNormal(), region, None, None), "state_dict": state, "global_step": steps}
        torch.save(checkpoint, place / "checkpoints" / "last.ckpt")
        grid = {
            "class_path": "ediffi.training.callbacks.sample_grid.SampleGrid",
            "init_args": {"sampling": {"guidance_scale": 3.0}},
        }
        config = {
            "model": {"denoiser": {"class_path": "ediffi.registry.denoisers.unet_toybox", "init_args": TINY_BASE}},
            "data": {"image_size": 16},
            "trainer": {"max_steps": 8, "callbacks": [grid]},
        }
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        return place

    return write


def test_a_training_run_is_a_model_of_one_stage(run: Callable[..., Path], hub: Hub) -> None:
    with of_run(run()) as (content, _):
        assert set(content) == {"first.safetensors", "README.md", "config.json"}
        upload(content, REPO)
        card = ModelCard(content["README.md"].decode())
    assert "No samples" in card.text
    assert f"trunk: {{model: {REPO}, stage: first}}" in card.text
    (stage,) = Cascade.from_pretrained(REPO).stages
    assert (stage.name, stage.resolution, stage.sampling.guidance_scale) == ("first", 16, 3.0)


def test_a_run_that_is_not_over_is_composed_with_a_warning(
    run: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for steps in (8, 5):
        caplog.clear()
        compose(tmp_path / f"model-{steps}", "mine", [StageRecipe("base", 16, run=run(steps))], {})
        unfinished = f"{tmp_path / 'first'} is at step 5 of 8: the same `ediffi fit` command continues it"
        assert caplog.messages == ([unfinished] if steps == 5 else [])


def test_a_run_that_is_not_over_is_refused(run: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="first is at step 5 of 8"), of_run(run(5)):
        pass
    with (
        pytest.raises(ValueError, match="no expert owns the noise quantiles 1/2 to 1"),
        of_run(run(8, Interval(1, 0))),
    ):
        pass
    place = run()
    with (
        FileLock(place / "run.lock"),
        pytest.raises(ValueError, match=r"a training runs in .*first"),
        of_run(place),
    ):
        pass
    (place / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt is missing"), of_run(place):
        pass


def test_a_grown_stage_is_taken_from_its_schedule(stage_folder: Path) -> None:
    with of_run(stage_folder.parent) as (content, _):
        assert set(content) == {"base-1-0.safetensors", "base-1-1.safetensors", "README.md", "config.json"}
        assert "| base | 16² | unet_toybox | 0 to 0.301 |" in content["README.md"].decode()


def test_a_folder_of_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is neither a model folder"), of_run(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="is not a directory"), of_run(tmp_path / "none"):
        pass


def test_a_loaded_cascade_is_pushed(hub: Hub, stage_folder: Path) -> None:
    address = Cascade.from_pretrained(stage_folder).push_to_hub(REPO, license="apache-2.0", private=True)
    assert address.startswith(f"{hub.url}/{REPO}/commit/")
    for name in ("base-1-0.safetensors", "base-1-1.safetensors", "config.json"):
        assert hub.files(REPO)[name] == (stage_folder / name).read_bytes()


@pytest.mark.parametrize("listed", [True, False])
def test_the_shipped_model_is_published_whole(listed: bool, tmp_path: Path) -> None:
    """With a config that lists its files, and with an earlier one; and the files that its README links."""
    model = shutil.copytree(SHIPPED / "toybox", tmp_path / "toybox")
    config = json.loads((model / "config.json").read_text())
    if not listed:
        (model / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "files"}))
    with publication(model, PublicationOptions("lab/toybox", "apache-2.0"), lambda *_: []) as (content, rest):
        sent = content["config.json"]
        files = json.loads(sent.read_text() if isinstance(sent, Path) else sent)["files"]
        assert files["encoders/t5/model.safetensors"] == sha256(content["encoders/t5/model.safetensors"])
        assert {"training.json", "training.png", "controls.json", "results.json"} <= set(content)
        assert rest == ["README.md"] or rest == []


@pytest.mark.slow
def test_a_real_run_is_trained_published_and_loaded_by_its_own_commands(
    recipe: Callable[..., Path], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe("base", tmp_path)
    assert main(["fit", "--config", str(config)]) == 0
    words = ["publish", str(tmp_path / "base"), REPO, "--license", "apache-2.0", "--recipe", str(config)]
    assert main(words) == 0
    assert set(hub.files(REPO)) == {
        ".gitattributes", "README.md", "base.safetensors", "config.json", "recipes/base.yaml"
    }  # fmt: skip
    capsys.readouterr()
    assert main(["experts", REPO]) == 0
    assert "base.safetensors" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_itself_is_killed_and_given_again(hub: Hub, model_folder: Path, content: Content) -> None:
    token = "hf_ours"
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    words = [sys.executable, "-m", "ediffi", "publish", str(model_folder), REPO, "--license", "apache-2.0"]
    hub.hold.clear()
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert hub.held.wait(120)
        process.kill()
    hub.hold.set()
    assert "config.json" not in hub.files(REPO)
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert token not in done.stdout + done.stderr
    assert set(hub.files(REPO)) == {".gitattributes", *content}
    assert torch.equal(picture(REPO), picture(model_folder))
