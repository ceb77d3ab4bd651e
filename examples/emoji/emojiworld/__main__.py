"""The command: `python -m emojiworld COMMAND`."""

import argparse
import logging
import sys
from pathlib import Path

from emojiworld.artists import SETS
from emojiworld.caption import LENGTHS
from emojiworld.curve import draw_curve
from emojiworld.judge import train_judge
from emojiworld.references import write_references
from emojiworld.shards import write_scenes
from emojiworld.sheets import write_sheets
from emojiworld.sprites import make_sprites
from emojiworld.suite import write_suite
from emojiworld.world import ALL_STYLES, SIX_STYLES, STYLES, World, names_in, open_world, read_concepts


def main() -> int:
    """Run a command; wrong input is one sentence on stderr, and 1; 130 if it is interrupted."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options.run(options)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except ValueError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return 0


def _fail(message: str, code: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def sprites(options: argparse.Namespace) -> None:
    """Fetch the artists' sets by npm, and render the drawings."""
    styles = ALL_STYLES if options.all else SIX_STYLES
    if options.styles is not None:
        styles = names_in(options.styles)
    wanted = None if options.all else {concept.hexcode for concept in read_concepts()}
    counts = make_sprites(options.output, styles, options.packages, wanted, options.share_alike)
    print(", ".join(f"{style} {count}" for style, count in counts.items()), f"in {options.output}; see its NOTICE")


def scenes(options: argparse.Namespace) -> None:
    """Write scenes as shards."""
    world = _world(options)
    drawings = sum(map(len, world.drawn.values()))
    print(f"{len(world.concepts)} concepts, {len(world.styles)} styles, {drawings} drawings")
    index = write_scenes(
        world, options.output, options.size, options.count, options.split, options.seed, options.per_shard,
        options.workers, options.style_captions,
    )  # fmt: skip
    print(index)


def references(options: argparse.Namespace) -> None:
    """Write embedded scenes again, each with the image embedding of another one in its style."""
    print(write_references(options.embedded, options.output, options.workers))


def suite(options: argparse.Namespace) -> None:
    """Write the prompts of the suite `emoji` of `ediffi evaluate`."""
    world = _world(options)
    print(write_suite(world, options.output, options.size, options.per_kind, options.length, options.seed))


def judge(options: argparse.Namespace) -> None:
    """Train the judge of the suite on scenes of --size 64."""
    accuracy = train_judge(options.output, options.train, options.test, options.epochs, options.width, options.seed)
    print(", ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))


def _world(options: argparse.Namespace) -> World:
    styles = None if options.styles is None else names_in(options.styles)
    return open_world(options.sprites, options.concepts, styles, options.all)


def sheets(options: argparse.Namespace) -> None:
    """Write contact sheets of an evaluation: the first images of each kind of prompt."""
    print(*write_sheets(options.evaluation, options.suite, options.output, options.count), sep="\n")


def curve(options: argparse.Namespace) -> None:
    """Draw what the judge read of a model at several times of its training."""
    draw_curve(options.results, options.output)
    print(options.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m emojiworld", description=sys.modules[__name__].__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("sprites", help=sprites.__doc__)
    command.set_defaults(run=sprites)
    command.add_argument("output", type=Path, help="the folder to write STYLE/HEXCODE.webp to")
    command.add_argument("--packages", type=Path, default=Path("packages"), help="where npm's archives are, or go to")
    command.add_argument("--styles", help=f"with commas between: {', '.join(SETS)}")
    command.add_argument("--all", action="store_true", help="every drawing of eight colour styles, not the list")
    command.add_argument("--share-alike", action="store_true", help="allow sets under share-alike licences")
    for command_of in (scenes, suite):
        command = commands.add_parser(command_of.__name__, help=command_of.__doc__)
        command.set_defaults(run=command_of)
        command.add_argument("output", type=Path, help="the folder to write to")
        command.add_argument("--sprites", type=Path, required=True, help="the folder with STYLE/HEXCODE.webp")
        command.add_argument("--size", type=int, default=64, help="the side of the pictures, in pixels")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--concepts", help="so many from the top of concepts.csv, or names with commas between")
        command.add_argument("--styles", help=f"with commas between: {', '.join(STYLES)}")
        command.add_argument("--all", action="store_true", help="every drawing of eight colour styles, not the list")
        if command_of is scenes:
            command.add_argument("--count", type=int, default=2000, help="of scenes")
            command.add_argument("--split", choices=("train", "test"), default="train")
            command.add_argument("--per-shard", type=int, default=2000)
            command.add_argument("--workers", type=int, default=1, help="processes; the result is the same")
            command.add_argument("--style-captions", type=float, default=0.0, help="share that tells the style alone")
        else:
            command.add_argument("--per-kind", type=int, default=500, help="prompts of each kind")
            command.add_argument("--length", choices=LENGTHS, default="short", help="of the captions")
    command = commands.add_parser("references", help=references.__doc__)
    command.set_defaults(run=references)
    command.add_argument("embedded", type=Path, help="shards of scenes, after `ediffi embed`")
    command.add_argument("output", type=Path, help="the folder to write to")
    command.add_argument("--workers", type=int, default=1, help="processes; the result is the same")
    command = commands.add_parser("judge", help=judge.__doc__)
    command.set_defaults(run=judge)
    command.add_argument("output", type=Path, help="the folder to write the judge to")
    command.add_argument("--train", type=Path, required=True, help="shards of the split test, so with all drawings")
    command.add_argument("--test", type=Path, required=True, help="other shards of the split test")
    command.add_argument("--epochs", type=int, default=8)
    command.add_argument("--width", type=int, default=64)
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("sheets", help=sheets.__doc__)
    command.set_defaults(run=sheets)
    command.add_argument("evaluation", type=Path, help="the folder that `ediffi evaluate --suite emoji` wrote")
    command.add_argument("output", type=Path, help="the folder to write to")
    command.add_argument("--suite", type=Path, required=True, help="the folder of the suite")
    command.add_argument("--count", type=int, default=64, help="images of each kind")
    command = commands.add_parser("curve", help=curve.__doc__)
    command.set_defaults(run=curve)
    command.add_argument("results", type=Path, help="JSON as benchmarks/results/emoji_model.json")
    command.add_argument("output", type=Path, help="the PNG to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
