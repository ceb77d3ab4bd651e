"""One pass over images: rows do not depend on processes, workers or interruptions; bad images are named."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.evaluation.metrics.clip_score import ClipScorer, load_scorer
from ediffi.evaluation.metrics.features import ClipFeatures
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.metrics.summary import summarise
from ediffi.io.distributed import DistributedContext
from ediffi.io.images import open_image, rgb, square
from ediffi.registry import encoders

SHIPPED = Path(encoders.__file__).parents[2] / "weights" / "toybox" / "encoders" / "clip"
COUNT = 13


class InMemory:
    """Encoded pictures, read as files are."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files, self.read = list(files), 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image.Image:
        self.read += 1
        if self.files[index] == b"gone":
            raise FileNotFoundError(f"no image {self.name(index)}")
        return open_image(self.files[index], self.name(index))

    def name(self, index: int) -> str:
        return f"{index:03}.png"

    def fingerprint(self) -> str:
        import hashlib

        return hashlib.sha256(b"\n".join(self.files)).hexdigest()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SCENES = prompts(seed=3, count=COUNT)
CAPTIONS = [caption.text for _, caption in SCENES]
IMAGES = [Image.fromarray(render(scene, 64)) for scene, _ in SCENES]


@pytest.fixture(scope="module")
def clip() -> ClipScorer:
    return load_scorer(path=str(SHIPPED))


class Columns:
    """Features of a picture by its pixels alone: fast, exact, and different for each."""

    name, layer, width = "columns", "mean", 192
    protocol = {"name": "columns", "layer": "mean", "weights": "", "resize": "", "library": ""}  # noqa: RUF012

    def prepare(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def __call__(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean(2).flatten(1)


@pytest.fixture
def pictures() -> InMemory:
    return InMemory([encoded(image) for image in IMAGES])


def brightness(index: int, image: Image.Image) -> dict[str, float]:
    mean = float(np.asarray(image).mean())
    return {"mean": mean, "odd": mean if index % 2 else float("nan")}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def everything(folder: Path, pictures: InMemory, clip: ClipScorer, **options: Any) -> dict[str, bytes]:
    measure(
        pictures, folder, MetricNetworks(ClipFeatures(clip), clip), captions=CAPTIONS, measure=brightness, **options
    )
    return files(folder)


def without_clip(folder: Path, pictures: InMemory, **options: Any) -> dict[str, bytes]:
    measure(pictures, folder, MetricNetworks(Columns()), measure=brightness, **options)
    return files(folder)


def test_rows_are_what_a_plain_loop_finds(tmp_path: Path, pictures: InMemory, clip: ClipScorer) -> None:
    everything(tmp_path, pictures, clip, batch_size=8)
    rows = Rows.read(tmp_path)
    with torch.no_grad():
        features = torch.cat([clip.model.encode_image(clip.prepare(image)[None]) for image in IMAGES])
        texts = torch.cat([clip.model.encode_text(clip.tokenizer([caption]), normalize=True) for caption in CAPTIONS])
    torch.testing.assert_close(rows.features(), features, atol=1e-5, rtol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(features, texts)
    np.testing.assert_allclose(rows.scores(), 100 * cosines.numpy(), atol=1e-4)
    moments = rows.moments()
    np.testing.assert_allclose(moments.cov, np.cov(features.double().numpy().T), atol=1e-5)
    means = [brightness(number, image)["mean"] for number, image in enumerate(IMAGES)]
    scores = {"clip_score": rows.scores().mean(), "mean": np.mean(means), "odd": np.mean(means[1::2])}
    assert summarise(rows).metrics == pytest.approx(scores)


def test_each_picture_is_decoded_once(tmp_path: Path, pictures: InMemory, clip: ClipScorer) -> None:
    everything(tmp_path, pictures, clip)
    assert pictures.read == COUNT + 1  # the first says which size all have
    everything(tmp_path, pictures, clip)
    assert pictures.read == COUNT + 1


def test_one_clip_for_features_and_scores_runs_once(tmp_path: Path, pictures: InMemory, clip: ClipScorer) -> None:
    seen: list[int] = []
    hook = clip.model.visual.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    try:
        everything(tmp_path, pictures, clip, batch_size=8)
    finally:
        hook.remove()
    assert seen == [8, 5]


@pytest.mark.parametrize("world_size", [3])
def test_bits_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, pictures: InMemory, clip: ClipScorer, world_size: int
) -> None:
    wanted = everything(tmp_path / "one", pictures, clip, batch_size=4)
    for rank in reversed(range(world_size)):
        with pytest.raises((ValueError, FileNotFoundError), match=r"have not been measured yet|holds no measurements"):
            Rows.read(tmp_path / "many")
        before = pictures.read
        found = everything(
            tmp_path / "many", pictures, clip, batch_size=4, context=DistributedContext(rank, world_size)
        )
        first = rank == world_size - 1  # looks at one more, to lay out the rows
        assert pictures.read - before == first + sum(index // 4 % world_size == rank for index in range(COUNT))
    assert found == wanted
    assert len(Rows.read(tmp_path / "many")) == COUNT


def test_bits_do_not_depend_on_workers(tmp_path: Path, pictures: InMemory) -> None:
    wanted = without_clip(tmp_path / "none", pictures, batch_size=4)
    assert without_clip(tmp_path / "two", pictures, batch_size=4, num_workers=2) == wanted


def test_metrics_do_not_depend_on_the_batch_size(tmp_path: Path, pictures: InMemory, clip: ClipScorer) -> None:
    found = []
    for size in (1, 64):
        everything(tmp_path / str(size), pictures, clip, batch_size=size)
        found.append(dict(summarise(Rows.read(tmp_path / str(size))).metrics))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


class Stop(BaseException):
    """As a signal would: nothing catches it."""


@pytest.mark.parametrize("after", [0, 1, 9])
def test_an_interrupted_pass_is_resumed(tmp_path: Path, pictures: InMemory, after: int) -> None:
    wanted = without_clip(tmp_path / "whole", pictures, batch_size=4)
    seen = 0

    def stopping(index: int, image: Image.Image) -> dict[str, float]:
        nonlocal seen
        seen += 1
        if seen == after + 2:  # one more is measured for the layout
            raise Stop
        return brightness(index, image)

    with pytest.raises(Stop):
        measure(pictures, tmp_path / "cut", MetricNetworks(Columns()), measure=stopping, batch_size=4)
    pictures.read = 0
    assert without_clip(tmp_path / "cut", pictures, batch_size=4) == wanted
    assert pictures.read == COUNT - after // 4 * 4


def test_a_block_whose_states_were_not_written_is_done_again(tmp_path: Path, pictures: InMemory) -> None:
    """Killed between the values and the states: the values are overwritten."""
    wanted = without_clip(tmp_path, pictures, batch_size=4)
    np.load(tmp_path / "states.npy", mmap_mode="r+")[8:12] = [0, 0, 1, 0]
    for name in ("features", "measured"):
        np.load(tmp_path / f"{name}.npy", mmap_mode="r+")[8:12] = np.nan
    assert files(tmp_path) != wanted
    assert without_clip(tmp_path, pictures, batch_size=4) == wanted


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
import test_passes as here
pictures = here.InMemory([here.encoded(image) for image in here.IMAGES])
def measured(index, image):
    if index == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return here.brightness(index, image)
here.measure(pictures, Path(sys.argv[1]), here.MetricNetworks(here.Columns()), measure=measured, batch_size=4)
"""


def test_a_killed_pass_goes_on(tmp_path: Path, pictures: InMemory) -> None:
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "cut")], cwd=here, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    with pytest.raises(ValueError, match=f"{COUNT - 8} of {COUNT} images have not been measured yet"):
        Rows.read(tmp_path / "cut")
    for name in ("cut", "whole"):
        measure(pictures, tmp_path / name, MetricNetworks(Columns()), measure=brightness, batch_size=4)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_folder_for_something_else_is_refused(tmp_path: Path, pictures: InMemory, clip: ClipScorer) -> None:
    measure(pictures, tmp_path, MetricNetworks(Columns()))
    with pytest.raises(ValueError, match="holds measurements with other pictures;"):
        measure(InMemory(pictures.files[::-1]), tmp_path, MetricNetworks(Columns()))
    with pytest.raises(ValueError, match="with other captions and other clip and other feature_extractor;"):
        everything(tmp_path, pictures, clip)
    everything(tmp_path / "scored", pictures, clip)
    with pytest.raises(ValueError, match="with other captions;"):
        measure(pictures, tmp_path / "scored", MetricNetworks(ClipFeatures(clip), clip), captions=CAPTIONS[::-1])
    with pytest.raises(ValueError, match="with other feature_extractor;"):
        measure(pictures, tmp_path, MetricNetworks(), strict=False)
    (tmp_path / "pass.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pass.json is broken .*; delete the folder and start again"):
        measure(pictures, tmp_path, MetricNetworks(Columns()))


def test_a_truncated_file_of_rows_is_named(tmp_path: Path, pictures: InMemory) -> None:
    measure(pictures, tmp_path, MetricNetworks(Columns()))
    file = tmp_path / "features.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"features.npy is missing or broken"):
        Rows.read(tmp_path).moments()


@pytest.mark.parametrize("name", ["features", "measured", "states", "hashes"])
@pytest.mark.parametrize("harm", ["flip", "zeros", "two rows exchanged", "cut", "removed", "other type"])
def test_a_changed_row_makes_no_number(tmp_path: Path, pictures: InMemory, name: str, harm: str) -> None:
    without_clip(tmp_path, pictures)
    path = tmp_path / f"{name}.npy"
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-3] ^= 2
    elif harm == "zeros":
        content[128:] = bytes(len(content) - 128)
    elif harm == "two rows exchanged":
        rows = np.load(path)
        rows[:2] = rows[1::-1]
        content[128:] = rows.tobytes()
    elif harm == "cut":
        del content[-8:]
    elif harm == "other type":
        content = content.replace(b"<f", b">f").replace(b"|u", b"|i").replace(b"<u", b"<i")
    path.write_bytes(content)
    if harm == "removed":
        path.unlink()
    if (name, harm) == ("states", "two rows exchanged"):
        return  # both are 1: nothing changed
    sentence = rf"{name}\.npy is (missing or )?broken|have not been measured|images are unusual|npy is broken: row"
    with pytest.raises(ValueError, match=sentence):
        Rows.read(tmp_path)


def test_a_changed_state_is_no_unusual_image(tmp_path: Path, pictures: InMemory) -> None:
    without_clip(tmp_path, pictures)
    path = tmp_path / "states.npy"
    content = bytearray(path.read_bytes())
    content[-3] = 5
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"states\.npy is broken: row .* was changed after it was measured"):
        without_clip(tmp_path, pictures)


def test_a_changed_layout_is_refused(tmp_path: Path, pictures: InMemory) -> None:
    without_clip(tmp_path, pictures)
    path = tmp_path / "pass.json"
    path.write_text(path.read_text().replace('"odd"', '"even"'))
    with pytest.raises(
        ValueError, match=r"pass\.json is broken \(it has another sha256 than it says, so it was changed"
    ):
        Rows.read(tmp_path)


def test_rows_of_earlier_versions_are_read_with_a_warning(
    tmp_path: Path, pictures: InMemory, caplog: pytest.LogCaptureFixture
) -> None:
    without_clip(tmp_path, pictures)
    wanted = Rows.read(tmp_path).features()
    content = json.loads((tmp_path / "pass.json").read_text())
    del content["sha256"], content["hashed"]
    (tmp_path / "pass.json").write_text(json.dumps(content | {"format": "ediffi-pass-1"}))
    (tmp_path / "hashes.npy").unlink()
    without_clip(tmp_path, pictures)
    assert torch.equal(Rows.read(tmp_path).features(), wanted)
    assert "of an earlier version, without hashes" in caplog.text


def odd_pictures() -> Iterator[tuple[str, bytes]]:
    image = IMAGES[0]
    yield "CMYK", encoded(image.convert("CMYK"), "JPEG")
    yield "16-bit or float", encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)))
    yield "animated", encoded(image, "GIF", save_all=True, append_images=IMAGES[1:3])
    yield "transparent", encoded(Image.merge("RGBA", (*image.split(), image.convert("L"))))


@pytest.mark.parametrize(
    ("kind", "content", "num_workers"),
    [(kind, content, int(kind == "CMYK")) for kind, content in odd_pictures()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_odd_picture_is_refused_or_counted(
    tmp_path: Path, pictures: InMemory, kind: str, content: bytes, num_workers: int
) -> None:
    pictures.files[7] = content
    with pytest.raises(ValueError, match=rf"^007.png is not a plain 8-bit RGB image, but {kind}$"):
        measure(pictures, tmp_path / "strict", MetricNetworks(Columns()), num_workers=num_workers)
    measure(pictures, tmp_path / "lenient", MetricNetworks(Columns()), num_workers=num_workers, strict=False)
    rows = Rows.read(tmp_path / "lenient", COUNT)
    assert (rows.odd, len(rows), list(rows.broken)) == ({kind: 1}, COUNT, [])
    assert summarise(rows).notices == [f"1 images were {kind} and were converted to 8-bit RGB"]


BROKEN = [b"", b"not a picture", encoded(IMAGES[0])[:200], b"gone"]


@pytest.mark.parametrize(
    ("content", "num_workers"),
    list(zip(BROKEN, (0, 0, 1, 0), strict=True)),
    ids=["empty", "text", "truncated", "missing"],
)
def test_a_broken_image_is_refused_or_left_out(
    tmp_path: Path, pictures: InMemory, content: bytes, num_workers: int
) -> None:
    pictures.files[7] = content
    with pytest.raises((ValueError, FileNotFoundError), match=r"007\.png") as caught:
        without_clip(tmp_path / "strict", pictures, num_workers=num_workers)
    assert "Traceback" not in str(caught.value)
    assert not multiprocessing.active_children()
    assert "\n" not in str(caught.value)
    without_clip(tmp_path / "lenient", pictures, num_workers=num_workers, strict=False)
    rows = Rows.read(tmp_path / "lenient")
    assert (len(rows), list(rows.broken)) == (COUNT - 1, [7])
    assert "1 images could not be read and were left out: numbers 7" in summarise(rows).notices
    with pytest.raises(ValueError, match=f"{COUNT} images are needed, and {COUNT - 1} could be read"):
        Rows.read(tmp_path / "lenient", COUNT)


def test_a_broken_image_leaves_out_its_row_and_its_caption(
    tmp_path: Path, pictures: InMemory, clip: ClipScorer
) -> None:
    networks = MetricNetworks(ClipFeatures(clip), clip)
    others = InMemory(pictures.files[:7] + pictures.files[8:])
    measure(others, tmp_path / "others", networks, captions=CAPTIONS[:7] + CAPTIONS[8:])
    pictures.files[7] = b""
    everything(tmp_path / "broken", pictures, clip, strict=False)
    rows, wanted = Rows.read(tmp_path / "broken"), Rows.read(tmp_path / "others")
    torch.testing.assert_close(rows.features(), wanted.features(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rows.moments().cov, wanted.moments().cov, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(rows.scores(), wanted.scores(), rtol=1e-5)


def test_the_first_that_can_be_read_are_judged(tmp_path: Path, pictures: InMemory) -> None:
    pictures.files[0] = pictures.files[2] = b""
    measure(pictures, tmp_path, MetricNetworks(Columns()), strict=False, batch_size=2)
    rows = Rows.read(tmp_path, 3)
    assert rows.indices.tolist() == [1, 3, 4]
    wanted = torch.stack([Columns().prepare(IMAGES[number]) for number in (1, 3, 4)])
    assert torch.equal(rows.features(), Columns()(wanted))


def test_a_whole_batch_may_be_broken(tmp_path: Path, pictures: InMemory, clip: ClipScorer) -> None:
    pictures.files[4:8] = [b""] * 4
    everything(tmp_path, pictures, clip, batch_size=4, strict=False)
    assert len(Rows.read(tmp_path)) == COUNT - 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_mixed_sizes_are_refused(tmp_path: Path, pictures: InMemory, num_workers: int) -> None:
    pictures.files[5] = encoded(IMAGES[5].resize((64, 48)))
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"^005.png is 64x48 and images of 64x64 are judged: resize them"):
            measure(pictures, tmp_path / str(strict), MetricNetworks(Columns()), num_workers=num_workers, strict=strict)


def test_images_of_another_size_than_the_suite_s_are_refused_or_made_square(tmp_path: Path, pictures: InMemory) -> None:
    class Small(Columns):
        width = 48

    with pytest.raises(ValueError, match=r"^000.png is 64x64 and images of 16x16 are judged"):
        measure(pictures, tmp_path / "refused", MetricNetworks(Small()), size=16)
    measure(pictures, tmp_path / "rule", MetricNetworks(Small()), size=16, resize="the rule")
    made = InMemory([encoded(square(rgb(pictures[index]), 16)) for index in range(COUNT)])
    measure(made, tmp_path / "made", MetricNetworks(Small()), size=16)
    found, wanted = (Rows.read(tmp_path / name).features() for name in ("rule", "made"))
    assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="holds measurements with other resize;"):
        measure(pictures, tmp_path / "rule", MetricNetworks(Small()), size=16, resize="another")
    with pytest.raises(ValueError, match="holds measurements of images of 16x16, and 64x64 are judged; delete it"):
        measure(pictures, tmp_path / "rule", MetricNetworks(Small()), size=64, resize="the rule")


def test_features_that_are_not_finite_name_their_picture(tmp_path: Path, pictures: InMemory) -> None:
    class Spoilt(Columns):
        def __call__(self, pictures: Tensor) -> Tensor:
            features = super().__call__(pictures)
            return features.where(features.mean(1, keepdim=True) != darkest, torch.tensor(torch.nan))

    darkest = Columns()(Columns().prepare(IMAGES[9])[None]).mean()
    with pytest.raises(ValueError, match=r"the features of 009\.png is not finite"):
        measure(pictures, tmp_path, MetricNetworks(Spoilt()), batch_size=4)


def test_captions_belong_to_pictures(tmp_path: Path, pictures: InMemory, clip: ClipScorer) -> None:
    with pytest.raises(ValueError, match=f"there are 3 captions for {COUNT} images"):
        measure(pictures, tmp_path, MetricNetworks(clip=clip), captions=CAPTIONS[:3])
    with pytest.raises(ValueError, match="there are 0 captions"):
        measure(pictures, tmp_path, MetricNetworks(clip=clip))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch raises wherever it is
def test_a_process_that_dies_is_said(tmp_path: Path, pictures: InMemory) -> None:
    """As when the system is out of memory."""

    def dying(index: int, image: Image.Image) -> dict[str, float]:
        if index == 9 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    with pytest.raises(OSError, match=r"^a process that decodes images died \(.*\): allow more memory"):
        measure(pictures, tmp_path, MetricNetworks(Columns()), measure=dying, batch_size=4, num_workers=1)
    measure(pictures, tmp_path, MetricNetworks(Columns()), measure=dying, batch_size=4)
    assert len(Rows.read(tmp_path)) == COUNT


def test_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no images"):
        measure(InMemory([]), tmp_path, MetricNetworks(Columns()))
    with pytest.raises(ValueError, match="none of 3 images can be read"):
        measure(InMemory([b""] * 3), tmp_path, MetricNetworks(Columns()), strict=False)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}])
def test_numbers_are_in_range(tmp_path: Path, pictures: InMemory, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        measure(pictures, tmp_path, MetricNetworks(Columns()), **options)


def test_a_bug_is_not_hidden(tmp_path: Path, pictures: InMemory) -> None:
    """What is nobody's input keeps its stack trace."""

    def wrong(index: int, image: Image.Image) -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure(pictures, tmp_path, MetricNetworks(Columns()), measure=wrong)
