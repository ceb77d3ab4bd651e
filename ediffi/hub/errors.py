"""What the Hub and the network answer, in one sentence each; a token never stands in one."""

from collections.abc import Iterator
from contextlib import contextmanager

HTTP_LIBRARIES = ("httpx", "requests")
"""What the Hub's client speaks through; it changed its library once, so its errors are known by their module."""


@contextmanager
def plainly(place: str) -> Iterator[None]:
    """What the Hub's client raises inside becomes an OSError with one sentence.

    Args:
        place: the repository that is meant, for the message.

    Raises:
        FileNotFoundError: there is no such repository, revision or file, or it is not shown to this user.
        PermissionError: the token is missing, wrong, or may not do that.
        ConnectionError: the Hub cannot be reached, or does not work.
    """
    try:
        yield
    except Exception as error:
        told = _told(error, place)
        if told is None:
            raise
        raise told from None


def without_token(text: str) -> str:
    """A text in which the user's token, should it stand there, is blotted out."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text


def unreachable(error: BaseException) -> bool:
    """Whether an error says that there is no network, or that it is not to be used."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, OfflineModeIsEnabled) or type(error).__module__.startswith(HTTP_LIBRARIES)


def _told(error: BaseException, place: str) -> OSError | None:
    """The error in a sentence; None for one that has nothing to do with the Hub."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error.__cause__ or error.__context__
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"{place} needs the Hub, and HF_HUB_OFFLINE=1 forbids the network")
    if isinstance(error, LocalTokenNotFoundError):
        return PermissionError("the Hub wants to know who you are: log in with `hf auth login`, or set HF_TOKEN")
    if isinstance(error, GatedRepoError):
        return PermissionError(f"{place} asks everybody to agree to its terms first: do that on its page, logged in")
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"the Hub has no model {place}, or does not show it to you; a private one asks for `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"the Hub has {place.partition('@')[0]}, but no such revision of it: {place}")
    if isinstance(error, LocalEntryNotFoundError) and cause is not None:
        return _told(cause, place)
    if isinstance(error, EntryNotFoundError):
        return FileNotFoundError(f"{place} lacks a file that it should have: {_brief(error)}")
    if isinstance(error, HfHubHTTPError):
        return _refused(error.response.status_code, error.server_message or _brief(error), place)
    if type(error).__module__.startswith(HTTP_LIBRARIES):
        return ConnectionError(f"the Hub cannot be reached at {constants.ENDPOINT} ({type(error).__name__}); {_AGAIN}")
    if isinstance(error, RuntimeError):  # the client wraps what stopped an upload; hf_xet raises nothing else
        return (_told(cause, place) if cause else None) or OSError(f"{place}: {without_token(_brief(error))}; {_AGAIN}")
    return None


_AGAIN = "the same command goes on where it was cut"


def _refused(status: int, message: str, place: str) -> OSError:
    said = without_token(" ".join(message.split()))[:200]
    if status == 401:
        return PermissionError("the Hub does not accept the token: log in again with `hf auth login`, or set HF_TOKEN")
    if status == 403:
        return PermissionError(f"the token may not do that with {place} ({said}); it needs the right to write there")
    if status >= 500 or status == 429:
        return ConnectionError(f"the Hub answered {status} for {place}; {_AGAIN}")
    return OSError(f"the Hub answered {status} for {place}: {said}")


def _brief(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
