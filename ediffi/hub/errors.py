"""Errors of the Hub's client and of the network as one sentence each, which never contains the token."""

from collections.abc import Iterator
from contextlib import contextmanager

HTTP_LIBRARIES = ("httpx", "requests")
"""The libraries that the Hub's client uses, by version; their errors are known by their module."""
AGAIN = "the same command continues where it stopped"


@contextmanager
def plain_errors(address: str) -> Iterator[None]:
    """Turn the errors of the Hub's client about a repository into an OSError with one sentence."""
    try:
        yield
    except Exception as error:
        if (plain := _plain(error, address)) is None:
            raise
        raise plain from None


def unreachable(error: BaseException) -> bool:
    """Whether an error means that there is no network or no working Hub, or that the network must not be used."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, OfflineModeIsEnabled) or type(error).__module__.startswith(HTTP_LIBRARIES)


def _plain(error: BaseException, address: str) -> OSError | None:
    """The error in one sentence; None if it does not come from the Hub."""
    from huggingface_hub import constants, errors

    cause = error.__cause__ or error.__context__
    match error:
        case errors.OfflineModeIsEnabled():
            return ConnectionError(f"{address} is on the Hub, and HF_HUB_OFFLINE=1 is set")
        case errors.LocalTokenNotFoundError():
            return PermissionError("Not logged in to the Hub: run `hf auth login` or set HF_TOKEN")
        case errors.GatedRepoError():
            return PermissionError(f"{address} is gated: log in to the Hub and accept the terms on its page")
        case errors.RepositoryNotFoundError():
            return FileNotFoundError(f"the Hub has no model {address}, or it is private and needs `hf auth login`")
        case errors.RevisionNotFoundError():
            return FileNotFoundError(f"the Hub has {address.partition('@')[0]}, but not this revision: {address}")
        case errors.LocalEntryNotFoundError() if cause is not None:
            return _plain(cause, address)
        case errors.EntryNotFoundError():
            return FileNotFoundError(f"{address} lacks a file: {_brief(error)}")
        case errors.HfHubHTTPError():
            return _refused(error.response.status_code, error.server_message or _brief(error), address)
        case _ if type(error).__module__.startswith(HTTP_LIBRARIES):
            kind = type(error).__name__
            return ConnectionError(f"the Hub cannot be reached at {constants.ENDPOINT} ({kind}); {AGAIN}")
        case RuntimeError():  # the client wraps what stopped an upload; hf_xet raises nothing else
            return (_plain(cause, address) if cause else None) or OSError(f"{address}: {_brief(error)}; {AGAIN}")
    return None


def _refused(status: int, message: str, address: str) -> OSError:
    said = _without_token(" ".join(message.split()))[:200]
    if status == 401:
        return PermissionError("the Hub does not accept the token: run `hf auth login` again, or set HF_TOKEN")
    if status == 403:
        return PermissionError(f"the token has no permission to write to {address} ({said})")
    if status >= 500 or status == 429:
        return ConnectionError(f"the Hub answered {status} for {address}; {AGAIN}")
    return OSError(f"the Hub answered {status} for {address}: {said}")


def _brief(error: BaseException) -> str:
    return _without_token(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    return text.replace(token, "***") if (token := get_token()) else text
