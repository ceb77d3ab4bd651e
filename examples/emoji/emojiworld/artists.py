"""Who drew the sets and who named the things, under which licences, and the npm packages that hold them."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Source:
    """Drawings of one style, or names (without a style), in an npm package at one version. `integrity` is npm's own:
    the SHA-512 of the package's archive in base64."""

    style: str
    author: str
    licence: str
    url: str  # the authors' own
    package: str
    version: str
    integrity: str

    @property
    def share_alike(self) -> bool:
        """Whether the licence binds whatever is made of it."""
        return "-SA-" in self.licence

    @property
    def archive(self) -> str:
        """The file that `npm pack` writes."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def __str__(self) -> str:
        return f"{self.package}@{self.version}"


def _read() -> list[Source]:
    with Path(__file__).with_name("artists.csv").open(encoding="utf-8", newline="") as file:
        return [Source(**row) for row in csv.DictReader(file)]


SETS: Final = {source.style: source for source in _read() if source.style}
"""By style. A share-alike set is used only when it is asked for by name and flag."""

NAMES, TAGS = (source for source in _read() if not source.style)


def notice(styles: Iterable[str]) -> str:
    """The attribution of a world of these styles, to go wherever its pictures or a model of them go."""
    lines = ["The drawings and names of the emoji world, and the models trained on them, are based on these works:", ""]
    for source in [*(SETS[style] for style in styles), NAMES, TAGS]:
        what = f"drawings ({source.style})" if source.style else "names and tags"
        lines += [f"- {source.author}, {what}: {source.licence}, {source.url}", f"  as packaged in {source}"]
    lines += ["", "The drawings were rendered, scaled and put together; nobody listed here endorses the result."]
    return "\n".join(lines) + "\n"
