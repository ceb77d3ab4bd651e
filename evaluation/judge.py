"""The judge: pictures of a suite's captions, measured in one pass, against the data set's own pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from PIL import Image

from ediffi.evaluation.datasets.captioned import CaptionedPictures, Item, fingerprint
from ediffi.evaluation.images.generate import Gather, alone, together
from ediffi.evaluation.images.numbered import Pictures
from ediffi.evaluation.metrics.clip_score import ClipScorer, load_scorer
from ediffi.evaluation.metrics.features import ClipFeatures, FeatureExtractor, load_extractor
from ediffi.evaluation.metrics.passes import Networks, measure
from ediffi.evaluation.metrics.reference import (
    Reference,
    extract_reference,
    read_npz,
    read_reference,
    reference_folder,
    reference_key,
)
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.metrics.summary import summarise
from ediffi.evaluation.naming import GUIDANCE
from ediffi.evaluation.results import Point
from ediffi.evaluation.suite import Suite

LIBRARIES = ("ediffi", "torch", "torchvision", "open_clip_torch", "torch-fidelity", "pillow", "numpy", "scipy")
SQUARE = "the shortest side to the size, bicubic and antialiased by Pillow; then the centre square"


@dataclass(frozen=True)
class Candidate:
    """Pictures to be judged.

    Attributes:
        name: of the setting they were made with, "guidance-3".
        pictures: one for each caption of the selection, in order.
        settings: what they were made with, plain JSON; empty if that is not known.
    """

    name: str
    pictures: Pictures
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Company:
    """The processes that judge together, and how they work.

    Attributes:
        rank: of this one.
        world_size: how many there are.
        gather: how they meet.
        batch_size: pictures at a time.
        num_workers: processes that decode, for each of them.
    """

    rank: int = 0
    world_size: int = 1
    gather: Gather = alone
    batch_size: int = 32
    num_workers: int = 0

    @property
    def share(self) -> dict[str, Any]:
        """What a pass wants to know."""
        names = ("batch_size", "num_workers", "rank", "world_size")
        return {name: getattr(self, name) for name in names}


class References:
    """The data set's own pictures of a selection, as `Pictures`.

    Args:
        dataset: whose pictures.
        items: of the selection.
        size: side of the pictures.
    """

    def __init__(self, dataset: CaptionedPictures, items: Sequence[Item], size: int) -> None:
        self.dataset, self.items, self.size = dataset, items, size

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Image.Image:
        return self.dataset.reference(self.items[index], self.size)

    def name(self, index: int) -> str:
        """The picture's id."""
        return self.items[index].picture

    def fingerprint(self) -> str:
        """SHA-256 of the selection."""
        return fingerprint(self.items)


@dataclass(frozen=True)
class Measuring:
    """What the data set measures itself, by number of the picture."""

    dataset: CaptionedPictures
    items: Sequence[Item]

    def __call__(self, index: int, image: Image.Image) -> Mapping[str, float]:
        """The measures of one picture."""
        return self.dataset.measure(self.items[index], image)


class Judge:
    """A suite with its captions and networks, ready to judge any number of candidates.

    Args:
        suite: what is judged, and by which networks.
        dataset: of the suite.
        items: the selection.
        cache: folder of reference statistics, shared by all suites.
        device: where the networks stand.
        clip_score: whether a CLIP scores; needed for its features too.

    Raises:
        FileNotFoundError: weights are neither there nor to be had.
        ValueError: weights are broken or of another network.
    """

    def __init__(
        self,
        suite: Suite,
        dataset: CaptionedPictures,
        items: Sequence[Item],
        cache: Path,
        device: str | torch.device = "cpu",
        clip_score: bool = True,
    ) -> None:
        self.suite, self.dataset, self.items, self.cache = suite, dataset, list(items), cache
        needs_clip = clip_score or suite.feature_extractor == "clip"
        clip = suite.clip
        scorer: ClipScorer | None = (
            load_scorer(clip.model, clip.pretrained, clip.path, device=device) if needs_clip else None
        )
        extractor: FeatureExtractor = (
            ClipFeatures(scorer)
            if scorer is not None and suite.feature_extractor == "clip"
            else load_extractor(suite.feature_extractor, weights=suite.feature_weights, device=device)
        )
        self.networks = Networks(extractor, scorer if clip_score else None)
        self.extractor = extractor

    def reference(self, company: Company, statistics: Path | None = None) -> Reference:
        """The real pictures as features: from the cache, or taken now by all processes; or statistics of others.

        Args:
            company: of this process.
            statistics: an .npz of pytorch-fid or clean-fid, instead of the data set's own pictures.

        Raises:
            ValueError: a picture is missing or broken, or the statistics are of something else.
            OSError: a file cannot be read or written.
        """
        if statistics is not None:
            return read_npz(statistics, self.extractor)
        pictures = References(self.dataset, self.items, self.suite.image_size)
        preparation = {"rule": self.dataset.protocol.get("references", SQUARE), "size": self.suite.image_size}
        key = reference_key(pictures, self.extractor, preparation)

        def extract() -> Path:
            return extract_reference(pictures, self.extractor, self.cache, preparation, **company.share)

        folder = together(company.gather, company.rank, extract)
        first = together(
            company.gather, company.rank, lambda: read_reference(folder, key) if company.rank == 0 else None
        )
        return first or read_reference(reference_folder(self.cache, key), key)

    def __call__(
        self, candidate: Candidate, reference: Reference, folder: Path, company: Company, strict: bool = True
    ) -> Point:
        """Measure a candidate in one pass, shared by all processes, and compare it with the reference.

        Args:
            candidate: a picture for each caption.
            reference: what it is compared with.
            folder: for the rows of the pass; gone on with.
            company: of this process.
            strict: refuse odd pictures; otherwise convert and count them.

        Raises:
            ValueError: there are fewer pictures than captions, or one is odd or broken or of another size.
            OSError: a file cannot be read or written.
        """

        def run() -> None:
            captions = [item.caption for item in self.items]
            measuring = Measuring(self.dataset, self.items)
            options: dict[str, Any] = {"captions": captions, "measure": measuring, "strict": strict}
            measure(candidate.pictures, folder, self.networks, **options, **company.share)

        together(company.gather, company.rank, run)
        rows = Rows.read(folder, len(self.items))
        summary = summarise(rows, self.extractor, reference)
        return Point(candidate.name, len(rows), summary.metrics, candidate.settings, summary.notices)

    def protocol(self, reference: Reference) -> dict[str, Any]:
        """What has to be known to repeat the numbers, as plain JSON values."""
        selection = {"sha256": fingerprint(self.items), "count": len(self.items), "seed": self.suite.seed}
        return {
            "dataset": {"name": self.dataset.name, **self.dataset.protocol},
            "selection": selection,
            "reference": dict(reference.protocol),
            "feature_extractor": dict(self.extractor.protocol),
            "clip": None if self.networks.clip is None else dict(self.networks.clip.protocol),
            "guidance": GUIDANCE,
            "versions": {"python": python_version(), **{name: version(name) for name in LIBRARIES}},
        }
