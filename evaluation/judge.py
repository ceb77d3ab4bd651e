"""Judge images of a suite's captions: measured in one pass, and compared with the dataset's own images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ediffi.evaluation.code_state import versions
from ediffi.evaluation.datasets.captioned import CaptionDataset, CaptionedImage, each_image, fingerprint
from ediffi.evaluation.images.found import all_images
from ediffi.evaluation.images.numbered import NumberedImages
from ediffi.evaluation.images.pairs import ImagePairs, partners
from ediffi.evaluation.metrics import paired
from ediffi.evaluation.metrics.clip_score import load_scorer
from ediffi.evaluation.metrics.decoding import ImageDecoder
from ediffi.evaluation.metrics.features import ClipFeatures, FeatureExtractor, load_extractor
from ediffi.evaluation.metrics.intervals import FEW, LEVEL, METHOD, Measure, mean, pair_mean, units_of
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.reference import (
    ReferenceStatistics,
    extract_together,
    read_npz,
    reference_statistics,
)
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.metrics.summary import in_more_features, summarise
from ediffi.evaluation.naming import GUIDANCE
from ediffi.evaluation.results import Point
from ediffi.evaluation.scorers import NamedScorer, load
from ediffi.evaluation.suite import ClipChoice, Suite
from ediffi.io.distributed import DistributedContext

SQUARE = "the shortest side to the size, the longest rounded down, bicubic and antialiased by Pillow; the centre square"
"""How reference images, and with `other_sizes: resized` generated ones, are made square. It is part of the cache's key:
another text is another reference."""


@dataclass(frozen=True)
class Candidate:
    """Images to judge: one for each caption of the selection, in order."""

    name: str  # of the setting they were made with: "guidance-3"
    images: NumberedImages
    settings: Mapping[str, Any] = field(default_factory=dict)  # plain JSON; empty if they are not known
    notices: Sequence[str] = ()  # sentences for the reader of its numbers


@dataclass(frozen=True)
class ReferenceImages:
    """The dataset's own images of a selection, `size` a side, as `NumberedImages`."""

    dataset: CaptionDataset
    items: Sequence[CaptionedImage]
    size: int

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Image.Image:
        return self.dataset.reference(self.items[index], self.size)

    def name(self, index: int) -> str:
        """The image's id."""
        return self.items[index].image_id

    def fingerprint(self) -> str:
        """SHA-256 of the selection."""
        return fingerprint(self.items)


def reference_of(
    place: Path,
    extractor: FeatureExtractor,
    cache: Path,
    image_size: int | None = None,
    context: DistributedContext | None = None,
    **options: Any,
) -> ReferenceStatistics:
    """The statistics of all images in a folder or in shards, cached; made square by `SQUARE` if a size is given.

    `options` are `strict` and `num_workers` of `measure`. ValueError: images differ in size, and no size is given.
    """
    preparation = {"rule": SQUARE if image_size else "none: as they are", "size": image_size, "from": place.name}
    sized = {"size": image_size, "resize": SQUARE if image_size else None}
    return reference_statistics(all_images(place), extractor, cache, preparation, context, **sized, **options)


class Judge:
    """A suite with its captions and networks; `cache` keeps the reference statistics of all suites."""

    def __init__(
        self,
        suite: Suite,
        dataset: CaptionDataset,
        items: Sequence[CaptionedImage],
        cache: Path,
        context: DistributedContext | None = None,
        clip_score: bool = True,
        num_workers: int = 0,
    ) -> None:
        self.suite, self.dataset, self.items, self.cache = suite, dataset, list(items), cache
        self.context, self.num_workers = context or DistributedContext(), num_workers
        clip, device, by_clip = suite.clip, self.context.device, suite.feature_extractor == "clip"
        clip_score = clip_score and clip is not None
        clip = clip or ClipChoice()
        option = "--clip (in a suite, clip: {path: FOLDER}), or measure without it by --no-clip-score"
        chosen = partial(load_scorer, clip.model, clip.pretrained, clip.path, device=device, option=option)
        scorer = chosen() if clip_score or by_clip else None
        self.extractor: FeatureExtractor
        if scorer is not None and by_clip:
            self.extractor = ClipFeatures(scorer)
        else:
            self.extractor = load_extractor(suite.feature_extractor, weights=suite.feature_weights, device=device)
        self.networks = MetricNetworks(self.extractor, scorer if clip_score else None)
        self.more = [load_extractor(name, None, file, device) for name, file in suite.more_features.items()]
        self.scorers = [load(name, given, device) for name, given in suite.scorers.items()]

    def references(self, other: Path | None = None, strict: bool = True) -> list[ReferenceStatistics]:
        """The statistics in the features of each extractor, the suite's own first; see `reference`."""
        if self.more and other is not None and other.suffix == ".npz":
            raise ValueError(f"{other.name} has the statistics of one extractor: leave out more_features")
        return [self.reference(other, strict, extractor) for extractor in (self.extractor, *self.more)]

    def reference(
        self, other: Path | None = None, strict: bool = True, extractor: FeatureExtractor | None = None
    ) -> ReferenceStatistics:
        """The statistics of the dataset's own images, cached; or of other images, in a folder or in shards, or those of
        an .npz of pytorch-fid or clean-fid.

        Of all images of the dataset, or of those of the chosen captions only: `Suite.reference`.
        """
        size, every, extractor = self.suite.image_size, [self.extractor, *self.more], extractor or self.extractor
        options: dict[str, Any] = {"context": self.context, "num_workers": self.num_workers}
        if other is not None and other.suffix == ".npz":
            return read_npz(other, extractor)
        if other is not None:
            return reference_of(other, extractor, self.cache, size, strict=strict, **options)
        items = self.items if self.suite.reference == "chosen" else each_image(self.dataset.items())
        images = ReferenceImages(self.dataset, items, size)
        preparation = {"rule": self.dataset.protocol.get("references", SQUARE), "size": size}
        if self.suite.reference == "all":
            preparation["which"] = "all"
        if content := self.dataset.protocol.get("images_sha256"):  # their names may stay while they change
            preparation["images_sha256"] = content
        extract_together(images, every, self.cache, preparation, **options)
        return reference_statistics(images, extractor, self.cache, preparation, **options)

    def __call__(
        self, candidate: Candidate, references: Sequence[ReferenceStatistics], folder: Path, strict: bool = True
    ) -> Point:
        """Measure a candidate in one pass into `folder`, shared by all processes, and compare it with the references.

        An interrupted pass is resumed. What further extractors and scorers measure is in folders beside `folder`,
        "NAME@EXTRACTOR". For `strict` see `measure`.
        """
        own, captions = partial(_measure, self.dataset, self.items), [item.caption for item in self.items]
        sized = {"size": self.suite.image_size, "resize": SQUARE if self.suite.other_sizes == "resized" else None}
        options: dict[str, Any] = {"captions": captions, "measure": own, "strict": strict, **sized}
        more = [(_beside(folder, one.protocol["name"]), MetricNetworks(one)) for one in self.more]
        scored = [(_beside(folder, one.name), MetricNetworks(scorer=one)) for one in self.scorers if not one.pairs]
        run = partial(measure, candidate.images, folder, self.networks, more=[*more, *scored], **options)
        workers: dict[str, Any] = {"num_workers": self.num_workers, "context": self.context}
        self.context.together(partial(run, **workers))
        if paired_scorers := [one for one in self.scorers if one.pairs]:
            pairs = ImagePairs(self._decoder(candidate, strict), partners(captions))
            (first, *rest) = [(_beside(folder, one.name), MetricNetworks(scorer=one)) for one in paired_scorers]
            seen = partial(measure, pairs, *first, captions=captions, strict=strict, more=rest, **workers)
            self.context.together(seen)
        # By one process: every metric takes all of the rows, and the processes of a machine share its processors.
        numbers = partial(self._numbers, candidate, references, folder, len(self.items) if strict else None)
        point = self.context.together(lambda: numbers() if self.context.rank == 0 else None)
        return self.context.gather(point)[0]

    def _numbers(
        self, candidate: Candidate, references: Sequence[ReferenceStatistics], folder: Path, wanted: int | None
    ) -> Point:
        """The metrics of the rows in `folder`, and of those beside it, with their intervals."""
        rows = Rows.read(folder, wanted)
        found = summarise(rows, self.extractor, references[0])
        for extractor, reference in zip(self.more, references[1:], strict=True):
            beside = Rows.read(_beside(folder, extractor.protocol["name"]), wanted)
            found.measures.update(in_more_features(beside, extractor, reference))
        for scorer in self.scorers:
            found.measures[scorer.name] = self._score(scorer, Rows.read(_beside(folder, scorer.name), wanted), rows)
        units = units_of([self.items[index].caption for index in rows.indices])
        paired.write(folder, found.measures, units, fingerprint([self.items[index] for index in rows.indices]))
        notices, captioned = [*candidate.notices, *found.notices], int(units.max()) + 1
        if captioned < FEW:
            notices.append(f"intervals by {captioned} captions are rough (fewer than {FEW})")
        return Point(candidate.name, len(rows), found.metrics, candidate.settings, notices, found.intervals(units))

    def _score(self, scorer: NamedScorer, scored: Rows, rows: Rows) -> Measure:
        """The mean of a scorer's scores over the images of `rows`; images without a score are left out."""
        scores = np.full(len(self.items), np.nan)
        scores[scored.indices] = scored.scores()
        scores, captions = scores[rows.indices], [item.caption for item in self.items]
        partner = np.array(partners(captions) if scorer.pairs else range(len(captions)))[rows.indices]
        if all(captions[number] == captions[other] for number, other in zip(rows.indices, partner, strict=True)):
            return mean(scores)
        scores[~np.isin(partner, rows.indices)] = np.nan
        return pair_mean(scores, np.searchsorted(rows.indices, partner))

    def _decoder(self, candidate: Candidate, strict: bool) -> ImageDecoder:
        side = self.suite.image_size
        return ImageDecoder(candidate.images, strict, (side, side), self.suite.other_sizes == "resized")

    def image(self, candidate: Candidate, index: int, strict: bool = True) -> Image.Image | None:
        """An image as it is judged, 8-bit RGB of the suite's size; None if it is broken and `strict` is false."""
        found = self._decoder(candidate, strict).image(index)
        return None if found is None else found[0]

    def protocol(self, reference: ReferenceStatistics) -> dict[str, Any]:
        """Everything that is needed to repeat the numbers, as plain JSON values."""
        own = not reference.protocol["foreign"] and "from" not in reference.protocol["preparation"]
        which = {"which": self.suite.reference} if own else {}
        resized = f"resized: {SQUARE}" if self.suite.other_sizes == "resized" else "refused"
        return {
            "dataset": {"name": self.dataset.name, **self.dataset.protocol},
            "selection": {"sha256": fingerprint(self.items), "count": len(self.items), "seed": self.suite.seed},
            "images": {"size": self.suite.image_size, "other_sizes": resized},
            "reference": {**which, **reference.protocol},
            "feature_extractor": dict(self.extractor.protocol),
            "clip": None if self.networks.clip is None else dict(self.networks.clip.protocol),
            **({"more_features": {one.protocol["name"]: dict(one.protocol) for one in self.more}} if self.more else {}),
            **({"scorers": {one.name: dict(one.protocol) for one in self.scorers}} if self.scorers else {}),
            "guidance": GUIDANCE,
            "intervals": {"level": LEVEL, "method": METHOD},
            "versions": versions(),
        }


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}@{name}")


def _measure(
    dataset: CaptionDataset, items: Sequence[CaptionedImage], index: int, image: Image.Image
) -> Mapping[str, float]:
    """What the dataset measures of image `index`; a function of the module, which the loader's processes can pickle."""
    return dataset.measure(items[index], image)
