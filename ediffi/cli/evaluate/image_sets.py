"""`ediffi evaluate pair` and `copies`: two sets of images, without captions."""

import shlex
import sys
from pathlib import Path

from ediffi.cli.parser import UsageError


def pair(
    images: Path,
    reference: Path,
    /,
    output: Path | None = None,
    feature_extractor: str = "inception-v3-compat",
    feature_weights: str | None = None,
    image_size: int | None = None,
    cache: Path = Path("runs/reference"),
    strict: bool = True,
    workers: int = 0,
    device: str = "auto",
) -> None:
    """Compare two sets of images without captions: Fréchet distance, KID, precision and recall.

    Args:
        images: a folder, or WebDataset shards.
        reference: the images to compare with.
        output: folder of results.json and report.html (default: runs/evaluation/pair-IMAGES-REFERENCE).
        feature_extractor: of torch-fidelity (inception-v3-compat, dinov2-vit-l-14, ...), efficientnet-lite0, or clip.
        feature_weights: a file with its weights; of clip a folder.
        image_size: make both sets square, so many pixels a side; by default all images must have one size.
        cache: folder of reference statistics.
        strict: refuse CMYK, 16-bit, animated and broken images; otherwise convert or skip, and count them.
        workers: processes that decode images.
    """
    from ediffi.evaluation import report
    from ediffi.evaluation.images.found import all_images
    from ediffi.evaluation.metrics.features import load_extractor
    from ediffi.evaluation.pair import compare_pair
    from ediffi.evaluation.report.text import text_table
    from ediffi.io.devices import find_device

    for place in (images, reference):
        all_images(place)  # a wrong place is told before networks are loaded
    folder = output or Path("runs/evaluation", f"pair-{images.resolve().name}-{reference.resolve().name}")
    extractor = load_extractor(feature_extractor, weights=feature_weights, device=find_device(device))
    command = shlex.join(["ediffi", *sys.argv[1:]])
    places = (images, reference, folder, extractor, cache)
    results = compare_pair(*places, image_size, command, strict=strict, num_workers=workers)
    results.write(folder)
    print(text_table(results))
    for notice in results.points[0].notices:
        print(f"note: {notice}")
    print(report.write(results, folder, command=command))


def copies(
    images: Path,
    training: Path,
    /,
    output: Path | None = None,
    feature_extractor: str = "inception-v3-compat",
    feature_weights: str | None = None,
    image_size: int | None = None,
    count: int = 24,
    cache: Path = Path("runs/reference"),
    strict: bool = True,
    workers: int = 0,
    device: str = "auto",
) -> None:
    """Find images that are copies of training images: the nearest one of each, a page of the closest pairs.

    Args:
        images: a folder, or WebDataset shards.
        training: the training images, a folder or shards.
        output: folder of copies.csv and copies.html (default: runs/evaluation/copies-IMAGES-TRAINING).
        feature_extractor: as of `ediffi evaluate`; also dgm-dinov2-vit-l-14.
        feature_weights: a file with its weights.
        image_size: make both sets square, so many pixels a side; by default all images must have one size.
        count: of pairs on the page.
        cache: folder of the training images' features.
        strict: refuse CMYK, 16-bit, animated and broken images; otherwise convert or skip them.
        workers: processes that decode images.
    """
    from ediffi.evaluation import memorisation
    from ediffi.evaluation.metrics.features import load_extractor
    from ediffi.io.devices import find_device

    if count < 1:
        raise UsageError(f"--count must be at least 1, got {count}")
    folder = output or Path("runs/evaluation", f"copies-{images.resolve().name}-{training.resolve().name}")
    extractor = load_extractor(feature_extractor, weights=feature_weights, device=find_device(device))
    places = (images, training, folder, extractor, cache, image_size)
    found = memorisation.find_copies(*places, strict=strict, num_workers=workers)
    print(found)
    print(memorisation.write(found, folder, count, shlex.join(["ediffi", *sys.argv[1:]])))
