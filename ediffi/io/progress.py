"""Progress of long work: a bar on a terminal, and elsewhere, as in the log of `nohup` or a cluster, plain lines."""

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

EVERY = 30.0
"""Seconds between the lines; work that is done before logs none."""
LINE = "{desc}: {unit} {n_fmt} of {total_fmt}, {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"

logger = logging.getLogger(__name__)


class Progress(tqdm):
    """tqdm's bar, with its arguments; where stderr is no terminal, a line in the log instead, every `EVERY` seconds."""

    last_print_t: float  # tqdm's

    def __init__(self, *args: Any, disable: bool = False, **options: Any) -> None:
        if not sys.stderr.isatty():
            # No line at the very beginning (delay), and the clock alone decides when the next one is due (miniters).
            options |= {"file": _Lines(), "mininterval": EVERY, "miniters": 1, "delay": 1e-3, "bar_format": LINE}
        super().__init__(*args, disable=disable, **options)

    def refresh(self, *args: Any, **options: Any) -> None:
        """Show it now, also where a setter of tqdm calls it; in a log, only if a line is due."""
        if self.disable:
            return
        if self.bar_format != LINE:
            super().refresh(*args, **options)
        elif (now := self._time()) - self.last_print_t >= self.mininterval:
            super().refresh(*args, **options)
            self.last_print_t = now


class _Lines:
    """What tqdm writes, as lines of the log; the last one of a bar comes once."""

    def __init__(self) -> None:
        self._done = ""

    def write(self, text: str) -> None:
        done = text.strip().partition(",")[0]
        if done not in ("", self._done):
            logger.info("%s %s", time.strftime("%H:%M:%S"), text.strip())
            self._done = done

    def flush(self) -> None:
        """Nothing is kept back."""
