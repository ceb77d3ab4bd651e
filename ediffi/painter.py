"""A cascade at work: says what it will ignore, paints under a bar, saves, reports; one prompt, or a run of many."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ediffi import gallery
from ediffi.cascade import Cascade, Pictures, Progress
from ediffi.manifest import Residency
from registry.types import SamplerState


class Painter:
    """A cascade at the command line.

    Args:
        model: the shipped "toybox", or a folder.
        device: where its networks stand.
        expert_residency: see `Cascade.from_pretrained`.
    """

    def __init__(self, model: str, device: str = "cpu", expert_residency: Residency = "resident") -> None:
        self.started = time.perf_counter()
        self.cascade = Cascade.from_pretrained(model, device, expert_residency)

    def notices(self, prompt: str) -> list[str]:
        """What of a prompt the model will not read, a sentence each."""
        notices = []
        if ignored := self.cascade.unknown_words(prompt):
            notices.append(f"ignored, not in the vocabulary of {self.cascade.name}: {', '.join(ignored)}")
        for source, rest in self.cascade.cut(prompt).items():
            notices.append(f"too long for {source}, which does not read: {rest!r}")
        return notices

    def paint(self, prompt: str, paths: Sequence[Path], **options: Any) -> None:
        """Paint a picture for each path, with the options of `Cascade.__call__`; save them, and report."""
        for notice in self.notices(prompt):
            print(notice, file=sys.stderr)
        with self._bar(options) as progress:
            pictures = self.cascade(prompt, num_images_per_prompt=len(paths), progress=progress, **options)
        save(pictures, paths)
        self._report(prompt, paths, pictures.settings)

    @contextmanager
    def _bar(self, options: Mapping[str, Any]) -> Iterator[Progress]:
        """A bar over the steps of all stages; a stage that is skipped, or done in part, counts for what it does."""
        names = ("num_inference_steps", "guidance_scale", "sampler")
        plan = self.cascade.plan(**{name: options.get(name) for name in names})
        steps = {stage.name: s.num_inference_steps for stage, s in zip(self.cascade.stages, plan, strict=True)}
        begun: set[str] = set()
        with tqdm(total=sum(steps.values()), unit="step", disable=None) as bar:

            def progress(stage: str, state: SamplerState) -> None:
                if not begun:
                    for earlier in list(steps)[: list(steps).index(stage)]:
                        del steps[earlier]
                begun.add(stage)
                steps[stage] = state.num_steps
                bar.total = sum(steps.values())
                bar.set_description(stage)
                bar.update()

            yield progress

    def _report(self, prompt: str, paths: Sequence[Path], settings: Mapping[str, Any]) -> None:
        seconds = time.perf_counter() - self.started
        print(f"{prompt!r}, seed {settings['seed']}: {described(settings['stages'])}; {seconds:.1f} s")
        for path in paths:
            print(path.resolve())


def save(pictures: Pictures, paths: Sequence[Path]) -> None:
    """Save pictures, each with the settings of all and its own index."""
    for index, (path, image) in enumerate(zip(paths, pictures.images, strict=True)):
        gallery.save(image, path, {**pictures.settings, "index": index})


def described(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """How the stages were sampled, in words."""
    return ", ".join(
        f"{name} {s['sampler']} {s['num_inference_steps']} steps ({s['nfe']} NFE) guidance {s['guidance_scale']:g}"
        for name, s in stages.items()
    )


@dataclass(frozen=True)
class Run:
    """Many prompts into a folder: `00000.png`, `00001.png`, ... in the order of the prompts.

    Picture k is a function of (seed, k), so pictures that are there are skipped, and a run that was cut goes on.
    `run.json` says what the folder is for; other settings need another folder.

    Args:
        prompts: in order.
        folder: made if it is missing.
        num_images: pictures for each prompt.
        batch_size: pictures at a time.

    Raises:
        ValueError: a number is below 1.
    """

    prompts: Sequence[str]
    folder: Path
    num_images: int = 1
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")

    def paint(self, painter: Painter, **options: Any) -> None:
        """Paint what is missing, under a bar over the pictures; with the options of `Cascade.__call__`.

        Raises:
            ValueError: the folder holds a run with other settings.
        """
        self._claim(painter.cascade, options)
        texts = [text for text in self.prompts for _ in range(self.num_images)]
        paths = [self.folder / f"{index:05d}.png" for index in range(len(texts))]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        with tqdm(total=len(paths), initial=len(paths) - len(missing), unit="picture", disable=None) as bar:
            for batch in _consecutive(missing, self.batch_size):
                chosen = [texts[index] for index in batch]
                pictures = painter.cascade(chosen, first_index=batch[0], **options)
                for index, text, image in zip(batch, chosen, pictures.images, strict=True):
                    single = {"prompt": text, "first_index": index, "index": 0}
                    gallery.save(image, paths[index], {**pictures.settings, **single})
                bar.update(len(batch))
        print(f"{len(paths)} pictures, {len(paths) - len(missing)} of them were there: {self.folder.resolve()}")

    def _claim(self, cascade: Cascade, options: Mapping[str, Any]) -> None:
        """Write down what the folder is for, or make sure that it is for this."""
        request = {"prompts": list(self.prompts), "num_images": self.num_images, **cascade.request(**options)}
        content = json.dumps(request, indent=1, ensure_ascii=False, sort_keys=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "run.json"
        if note.exists() and note.read_text(encoding="utf-8") != content:
            raise ValueError(f"{self.folder} holds a run with other prompts or settings; choose another folder")
        if not note.exists():
            beside = note.with_name("run.json.tmp")
            beside.write_text(content, encoding="utf-8")
            beside.replace(note)


def _consecutive(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Runs of neighbours, at most `size` long."""
    batch: list[int] = []
    for index in indices:
        if batch and (index != batch[-1] + 1 or len(batch) == size):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
