"""Every test runs with shapes and types checked, from a fixed seed, offline."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"  # 150 MB for a few small kernels
os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that tests start share the cores with other tests
os.environ["EDIFFI_IMPORTS"] = "tests,faults"  # what the recipes of the tests name

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# The numeric tower: as in static typing, an int will do where a float is asked for.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["ediffi"], CHECKER)

from tests.world import model_folder, recipe, shard_folder, shards  # noqa: E402, F401  (after the hook: it imports ediffi)

settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")
torch.set_num_threads(1)  # tests run in parallel (-n); threads of several processes would wait for each other


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Makes folders that several tests of a module use, and that go with the last of them."""
    made: list[Path] = []

    def make(name: str) -> Path:
        made.append(tmp_path_factory.mktemp(name))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that fail are tried again at once."""
    monkeypatch.setattr("ediffi.io.retries.PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    """Each test starts from the same seed, whichever ran before it, and leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
