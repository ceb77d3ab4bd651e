"""docs/own-data.md, word by word: from a folder of images to a painted one, with few steps and a tiny MiniLM."""

import random
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from transformers import BertConfig, BertModel

from ediffi.cli import main
from ediffi.cli.fit import QUIET
from ediffi.registry.encoders.text import MINILM_PACKAGE
from tests.tiny_encoders import word_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SHORT = shlex.split(
    "--trainer.max_steps 2 --trainer.val_check_interval 2 --trainer.accelerator cpu --data.batch_size 2 "
    "--model.denoiser.init_args.channels 32 --trainer.enable_progress_bar false"
)
MORE = {"fit": SHORT, "sample": ["--num-inference-steps", "2"]}

pytestmark = [pytest.mark.filterwarnings(f"ignore:{m}") for m in (*QUIET, ".*Checkpoint directory.*")]


def commands(text: Path) -> list[list[str]]:
    """The command lines of a text about images of one's own."""
    content = text.read_text(encoding="utf-8")
    if text.name == "README.md":
        content = content.partition("### Your own images")[2].partition("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^    ediffi (.*?)(?:   .*)?$", content, re.MULTILINE)]


def draw(folder: Path, number: int) -> None:
    """A drawing with transparency and its caption."""
    rng = random.Random(number)
    shape, color = rng.choice(("circle", "square")), rng.choice(("red", "green", "blue"))
    image = Image.new("RGBA", (80, 72))
    left, top = rng.randrange(40), rng.randrange(32)
    box = (left, top, left + 36, top + 36)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=color)
    image.save(folder / f"{number:03d}.png")
    (folder / f"{number:03d}.txt").write_text(f"a {color} {shape}\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder with 40 drawings, on a machine on which MiniLM is a tiny network of its width."""
    model = tmp_path / "packages" / MINILM_PACKAGE / "model"
    tokenizer = word_tokenizer(begin=True, max_length=128)
    sizes = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    (model.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(model.parents[1])
    (tmp_path / "here" / "my-images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for number in range(40):
        draw(Path("my-images"), number)
    return tmp_path / "here"


def test_a_stranger_follows_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands(ROOT / "docs/own-data.md")
    assert [words[0] for words in lines] == [
        "data",
        "data",
        "embed",
        "embed",
        "fit",
        "fit",
        "compose",
        "sample",
        "studio",
    ]
    for words in lines[:-1]:
        assert main([*words, *MORE.get(words[0], [])]) == 0, (words, capsys.readouterr().err)
    told = capsys.readouterr().out
    assert "40 images (a text beside each image); left out: nothing" in told
    assert "captions t5: 0.0% of the tokens of the captions are unknown" in told
    with Image.open("fox.png") as image:
        assert image.size == (64, 64)
    Path("layout.json").write_text('[{"phrase": "red circle", "mask": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}]')
    painted = ["sample", "a red circle", "--model", "my-model", "--paint", "layout.json", "-o", "painted.png"]
    assert main([*painted, "--num-inference-steps", "2"]) == 0


def test_the_readme_has_the_same_commands() -> None:
    short = commands(ROOT / "README.md")
    assert len(short) == 7
    page = commands(ROOT / "docs/own-data.md")
    assert [words for words in page if words in short] == short
