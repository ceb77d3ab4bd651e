"""`ediffi sample --prompts`: the same pictures whatever the processes, and wherever the run was killed."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ediffi.cli import main
from ediffi.evaluation.images import claim
from ediffi.evaluation.images.found import find_images
from ediffi.io.png import settings_of
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.cascade_generator import CascadeGenerator, EncodedPrompts, identity
from ediffi.pipeline.options import SamplingOptions

OPTIONS = SamplingOptions()
ROOT = Path(__file__).resolve().parents[2]
COUNT = 30
STEPS = ["--num-inference-steps", "[1,1]", "--batch-size", "4"]


def prompt_file(folder: Path, count: int = COUNT) -> Path:
    path = folder / "prompts.txt"
    colours = ("red", "blue", "green", "yellow", "pink")
    path.write_text("".join(f"a {colours[k % 5]} circle and a {colours[k % 3]} square\n" for k in range(count)))
    return path


def generator_of(model: Path, options: SamplingOptions = OPTIONS, threads: int = 1) -> CascadeGenerator:
    return CascadeGenerator(Cascade.from_pretrained(model), options, identity(model), threads)


def test_a_prompt_is_encoded_once_for_all_guidance_scales_and_all_its_images(model_folder: Path) -> None:
    cascade, texts = Cascade.from_pretrained(model_folder), []
    encoder = cascade.encoders["t5"]
    encoder.register_forward_pre_hook(lambda module, inputs: texts.extend(inputs[0]))  # type: ignore[attr-defined]
    plain = [cascade.generate(["a red circle", "a blue square"], replace(OPTIONS, guidance_scale=w)) for w in (1, 3)]
    assert len(texts) == 4
    texts.clear()
    encoded = EncodedPrompts(cascade, OPTIONS)
    for w, wanted in zip((1, 3), plain, strict=True):
        generator = CascadeGenerator(cascade, replace(OPTIONS, guidance_scale=w), encoded=encoded)
        made = generator(["a red circle", "a blue square"], 0)
        assert [image.tobytes() for image in made] == [image.tobytes() for image in wanted.images]
    assert texts == ["a red circle", "a blue square"]
    full = EncodedPrompts(cascade, OPTIONS, limit=100)
    assert full(["a red circle"]) is not full(["a red circle"])
    assert encoded(["a red circle"]) is encoded(["a red circle"])
    texts.clear()
    cascade("a red circle", num_images_per_prompt=4, negative_prompt="blue")
    assert texts == ["a red circle", "blue"]


def words(prompts: Path, output: Path, model: Path, *more: str) -> list[str]:
    return ["sample", "--prompts", str(prompts), "-o", str(output), "--model", str(model), *STEPS, *more]


def start(arguments: Sequence[str], *before: str) -> subprocess.Popen[str]:
    """The real command line, in a process group of its own, with nothing said about threads."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_"))}
    command = [sys.executable, *before, "-m", "ediffi", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def unbroken(model_folder: Path, new_folder: Callable[[str], Path]) -> Path:
    """A run of one process that nothing disturbed; its prompts are beside it."""
    folder = new_folder("generation")
    assert main(words(prompt_file(folder), folder / "unbroken", model_folder)) == 0
    return folder / "unbroken"


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    return shutil.copytree(unbroken, tmp_path / "copy")


# A cascade as a generator


def test_a_generator_is_its_cascade(model_folder: Path) -> None:
    generator = generator_of(model_folder, SamplingOptions(seed=3, num_inference_steps=[1, 2], guidance_scale=3.0))
    images = generator(["a red circle", "a blue square"], 5)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = generator.cascade(
        ["a red circle", "a blue square"], seed=3, first_index=5, num_inference_steps=[1, 2], guidance_scale=3.0
    )
    torch.set_num_threads(before)
    for image, other in zip(images, expected.images, strict=True):
        assert np.array_equal(np.array(image), np.array(other))


def test_settings_say_what_the_pictures_depend_on(model_folder: Path, tmp_path: Path) -> None:
    settings = generator_of(model_folder, SamplingOptions(seed=3, guidance_scale=3.0)).settings
    assert json.loads(json.dumps(settings)) == settings | {"stages": json.loads(json.dumps(settings["stages"]))}
    assert (settings["model"], settings["seed"], settings["threads"]) == ("tiny", 3, 1)
    assert (settings["guidance_scale"], settings["nfe"]) == (3.0, 4)
    other = shutil.copytree(model_folder, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text().replace(" ", "  ", 1))
    assert identity(other) != identity(model_folder) == {"model_sha256": settings["model_sha256"]}
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        generator_of(model_folder, threads=0)


def test_threads_are_the_generator_s_own(model_folder: Path) -> None:
    before = torch.get_num_threads()
    generator = generator_of(model_folder, SamplingOptions(num_inference_steps=2))
    made = []
    for threads in (1, 3):  # with which these four pictures differ, where the generator does not see to it
        torch.set_num_threads(threads)
        made.append([image.tobytes() for image in generator(["a red circle and a blue square"] * 4, 0)])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert made[0] == made[1]


def test_each_picture_tells_how_to_repeat_it(unbroken: Path, model_folder: Path) -> None:
    settings = settings_of(unbroken / "00006.png")
    prompt = (unbroken.parent / "prompts.txt").read_text().splitlines()[6]
    assert (settings["prompt"], settings["first_index"], settings["index"]) == (prompt, 6, 0)
    again = Cascade.from_pretrained(model_folder)(
        settings["prompt"], seed=settings["seed"], first_index=settings["first_index"], num_inference_steps=[1, 1]
    )
    with Image.open(unbroken / "00006.png") as image:
        assert np.abs(np.array(image).astype(int) - np.array(again.images[0])).max() <= 1


# The command line


def test_a_rerun_verifies_and_repairs(copy: Path, unbroken: Path, model_folder: Path, capsys) -> None:
    assert main(words(unbroken.parent / "prompts.txt", copy, model_folder)) == 0
    assert f"{COUNT} images, {COUNT} already there: {copy}" in capsys.readouterr().out
    content = (copy / "00007.png").read_bytes()
    (copy / "00007.png").write_bytes(content[: len(content) // 2])
    (copy / "00021.png").unlink()
    assert main(words(unbroken.parent / "prompts.txt", copy, model_folder)) == 0
    assert "30 images, 28 already there, broken and made again: 1:" in capsys.readouterr().out
    assert pictures(copy) == pictures(unbroken)


def test_shards_hold_the_same_pictures(unbroken: Path, model_folder: Path, tmp_path: Path) -> None:
    assert main(words(unbroken.parent / "prompts.txt", tmp_path / "shards", model_folder, "--shard-size", "12")) == 0
    assert sorted(path.name for path in (tmp_path / "shards").glob("*.tar")) == [f"0000{k}.tar" for k in range(3)]
    keys = [str(index) for index in range(COUNT)]
    shards, folder = find_images(tmp_path / "shards", keys), find_images(unbroken, keys)
    assert [shards[k].tobytes() for k in range(COUNT)] == [folder[k].tobytes() for k in range(COUNT)]
    assert settings_of(unbroken / "00029.png") == json.loads(shards[29].info["ediffi"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--devices", "0"], "--devices must be at least 1, got 0"),
        (["--num-nodes", "-1"], "--num-nodes must be at least 1, got -1"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--shard-size", "10"], "shard_size must be a multiple of batch_size, got 10 and 4"),
        (["--shard-size", "0"], "shard_size must be at least 1, got 0"),
        (
            ["--devices", "2", "--device", "cpu:0"],
            "need a device without a number, such as cuda, got 'cpu:0'",
        ),
        (["--seed", "1"], "holds a run with other settings: seed was 0, now 1; choose another folder"),
        (["--threads", "2"], "threads was 1, now 2"),
        (["--guidance-scale", "3"], "guidance_scale was 2.0, now 3.0"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str], message: str, copy: Path, unbroken: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(unbroken.parent / "prompts.txt", copy, model_folder, *more)) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert message in printed.err
    assert pictures(copy) == pictures(unbroken)


@pytest.mark.parametrize("more", [["--devices", "2"], ["--num-nodes", "2"], ["--shard-size", "4"]])
def test_one_prompt_is_no_run(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "a red circle", *more]) == 2
    assert "are for many prompts; give a file with --prompts" in capsys.readouterr().err


def test_the_second_of_two_runs_hears_who_is_there(copy: Path, unbroken: Path, model_folder: Path, capsys) -> None:
    with claim.lock(copy):
        assert main(words(unbroken.parent / "prompts.txt", copy, model_folder)) == 1
    assert f"{copy} is in use by process {os.getpid()} on " in capsys.readouterr().err


# Processes


def test_a_run_of_two_killed_goes_on_with_three(unbroken: Path, model_folder: Path, tmp_path: Path) -> None:
    folder, prompts = tmp_path / "run", unbroken.parent / "prompts.txt"
    with start(words(prompts, folder, model_folder, "--devices", "2")) as process:
        wait_for(lambda: len(pictures(folder)) > 4, process)
        process.send_signal(signal.SIGKILL)  # the first process only; the other must notice
    assert len(before := pictures(folder)) > 4
    with start(words(prompts, folder, model_folder, "--devices", "3")) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"{COUNT} images, ")
    assert pictures(folder) == pictures(unbroken)
    assert before.items() <= pictures(folder).items()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_ten_kills_lose_nothing(devices: int, model_folder: Path, tmp_path: Path) -> None:
    prompts, folder, moments = prompt_file(tmp_path, 300), tmp_path / "killed", random.Random(devices)
    longer = ["--num-inference-steps", "[6,3]"]
    assert main([*words(prompts, tmp_path / "unbroken", model_folder), *longer]) == 0
    for kill, count in enumerate(sorted(moments.sample(range(200), 10))):
        with start([*words(prompts, folder, model_folder, "--devices", str(devices)), *longer]) as process:
            holder = f'"pid": {process.pid},'
            wait_for(lambda holder=holder: holder in _text(folder / ".lock.json"), process)
            wait_for(lambda count=count: len(list(folder.glob("*.png"))) >= count, process)
            time.sleep(moments.uniform(0, 0.05))
            assert process.poll() is None
            if kill % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.send_signal(signal.SIGKILL)
        assert count <= len(pictures(folder)) < 300
    with start([*words(prompts, folder, model_folder, "--devices", str(devices)), *longer]) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.startswith("300 images, ")
    assert list(pictures(folder)) == [f"{index:05d}.png" for index in range(300)]
    assert pictures(folder) == pictures(tmp_path / "unbroken")
    assert len(set(pictures(folder).values())) == 300


@pytest.mark.slow
def test_torchrun_makes_the_same(unbroken: Path, model_folder: Path, tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with start(words(unbroken.parent / "prompts.txt", tmp_path / "run", model_folder), *torchrun) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{COUNT} images, 0 already there" in out
    assert pictures(tmp_path / "run") == pictures(unbroken)


@pytest.mark.slow
def test_two_nodes_make_the_same(
    unbroken: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in range(2):  # two commands on one machine, as they would be given on two
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port), ("NODE_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        run = words(unbroken.parent / "prompts.txt", tmp_path / "run", model_folder, "--num-nodes", "2")
        nodes.append(start(run))
    told = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert (told[0][0].startswith(f"{COUNT} images, 0 already"), told[1]) == (True, ("", ""))
    assert pictures(tmp_path / "run") == pictures(unbroken)


@pytest.mark.slow
def test_each_process_says_in_a_line_why_it_ends(copy: Path, unbroken: Path, model_folder: Path) -> None:
    run = words(unbroken.parent / "prompts.txt", copy, model_folder, "--devices", "2")
    with start([*run, "--seed", "1"]) as process:
        err = process.communicate()[1]
    assert process.returncode == 1
    assert sorted(line.partition(" holds a run")[0] for line in err.splitlines()) == [
        f"ediffi: error: {copy}",
        f"ediffi: error: process 0 of this run failed: {copy}",
    ]
    (copy / "00005.png").unlink()
    (copy / "00005.png.tmp").mkdir()  # what the second process cannot write
    with start(run) as process:
        err = process.communicate()[1]
    assert process.returncode != 0
    assert "Traceback" not in err
    assert f"ediffi: error: {copy / '00005.png.tmp'}: Is a directory" in err.splitlines()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
