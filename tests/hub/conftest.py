"""A Hub on loopback that the client of this process speaks to, an empty cache, and a model to publish."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session, disable_progress_bars

from ediffi.hub.publish import Content, PublicationOptions, publication
from ediffi.pipeline.cascade import paint_samples
from tests.hub.loopback import Hub, serve

REPO = "lab/tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    disable_progress_bars()
    with serve() as served:
        point(monkeypatch, served.url, tmp_path / "cache")
        yield served
    close_session()


def point(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """The client reads its environment once, so what it read is changed."""
    close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setenv("HF_TOKEN", "hf_ours")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits for seconds before it tries again; that is not what is tested."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture(scope="session")
def content(model_folder: Path) -> Content:
    """What goes up of the tiny cascade."""
    with publication(model_folder, PublicationOptions(REPO, "apache-2.0"), paint_samples) as (files, _):
        return {name: file if isinstance(file, bytes) else file.read_bytes() for name, file in files.items()}


@pytest.fixture
def published(hub: Hub, content: Content) -> Hub:
    """A Hub that has the tiny cascade, as if it had always had it."""
    hub.put(REPO, dict(content))
    return hub
