"""What the tests in a real browser share: the running page, a tab of it, and what a user does there."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEPS = {"base": 4, "sr64": 2, "sr256": 1}
READY = "#generate:not([disabled])"


class Studio(NamedTuple):
    """The address of a running page, and the folder of its images."""

    url: str
    folder: Path

    @property
    def images(self) -> set[Path]:
        return set(self.folder.glob("*.png"))


def write(tab: Any, prompt: str) -> None:
    tab.fill("#prompt textarea", prompt)
    last = prompt.split()[-1] if prompt.split() else "Write a prompt first."
    tab.wait_for_function("text => document.querySelector('#phrases .sentence').textContent.endsWith(text)", arg=last)


def number(tab: Any, name: str, value: int) -> None:
    field = tab.get_by_label(name, exact=True)
    field.fill(str(value))
    field.blur()


def inked(tab: Any, layer: str = "drawing") -> Any:
    """The pixels of a layer that are painted: their number, and their colours."""
    return tab.evaluate(
        """(layer) => {
          const canvas = document.querySelector('#canvas .' + layer), seen = new Set();
          const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          let count = 0;
          for (let at = 0; at < data.length; at += 4)
            if (data[at + 3]) { count++; seen.add([...data.slice(at, at + 4)].join()); }
          return [count, [...seen]];
        }""",
        layer,
    )


def select_words(tab: Any, first: str, last: str) -> None:
    """Drag over words of the prompt."""
    boxes = [tab.locator("#phrases [data-word]", has_text=word).first.bounding_box() for word in (first, last)]
    (x0, y0), (x1, y1) = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
    tab.mouse.move(x0, y0)
    tab.mouse.down()
    tab.mouse.move(x1, y1, steps=3)
    tab.mouse.up()


def stroke(tab: Any, *points: tuple[float, float]) -> None:
    """Paint along points, 0 to 1 from the top left of the canvas."""
    box = tab.locator("#canvas .drawing").bounding_box()
    spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    tab.mouse.move(*spots[0])
    tab.mouse.down()
    for spot in spots[1:]:
        tab.mouse.move(*spot, steps=4)
    tab.mouse.up()


def generate(tab: Any) -> None:
    run(tab, lambda: tab.click("#generate"))


def run(tab: Any, begin: Callable[[], Any]) -> None:
    """Begin a job, and wait for its end; a job that is over before anybody looks is seen too."""
    tab.evaluate(
        """() => {
          window.began = false;
          const seen = (changes) => { window.began ||= changes.some(({ target }) => target.id === "generate"); };
          const what = { subtree: true, attributes: true, attributeFilter: ["disabled"] };
          new MutationObserver(seen).observe(document.body, what);
        }"""
    )
    begin()
    tab.wait_for_function("window.began")
    tab.wait_for_selector(READY)


def drop(tab: Any, path: Path, onto: str = "#canvas .board") -> None:
    """Drop a file as a file manager does."""
    content = base64.b64encode(path.read_bytes()).decode()
    transfer = tab.evaluate_handle(
        """([name, content]) => {
          const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
          const type = name.endsWith("json") ? "application/json" : "image/png";
          transfer.items.add(new File([bytes], name, { type }));
          return transfer;
        }""",
        [path.name, content],
    )
    for event in ("dragover", "drop"):
        tab.dispatch_event(onto, event, {"dataTransfer": transfer})
