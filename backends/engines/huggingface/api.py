"""What the Hub says over HTTP about a model, and what its refusals mean.

https://huggingface.co/docs/hub/api; the error codes are those that ``huggingface_hub`` reads
(``utils/_http.py``, ``hf_raise_for_status``).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote, urlsplit

from accounts.errors import MhError
from backends.errors import PullFailed, UnknownModel

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
DEFAULT_REVISION: Final = "main"
#: The part of a model's name on the Hub before and after its slash; old models have no first part.
_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_MODEL: Final = re.compile(rf"(?:{_PART}/)?{_PART}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
#: SHA-1 of a small file, as git has it, or SHA-256 of a large one.
_DIGEST: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HTTP_TOO_MANY: Final = 429
_HTTP_SERVER: Final = 500
_LONGEST_REASON: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a model."""

    #: Below the model's folder: ``model-00001-of-00002.safetensors``.
    path: str
    size: int
    #: SHA-256 in 64 digits, or git's SHA-1 in 40. The cache calls the file by it.
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A model at one commit."""

    model: str
    commit: str
    files: tuple[HubFile, ...]


def is_model_name(text: str) -> bool:
    """Say whether the Hub could have a model of this name: ``publisher/name``, or ``name`` alone."""
    return bool(_MODEL.fullmatch(text)) and "--" not in text and ".." not in text


def endpoint(environ: Mapping[str, str] = os.environ) -> str:
    """Return the Hub's address: ``HF_ENDPOINT``, else the public one."""
    return (environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def host() -> str:
    """Return the Hub's name for people."""
    return urlsplit(endpoint()).netloc or endpoint()


def token(environ: Mapping[str, str] = os.environ) -> str:
    """Return the person's access token: ``HF_TOKEN``, else the file that ``hf auth login`` writes; empty without."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if said := environ.get(name, "").strip():
            return said
    base = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    file = environ.get("HF_TOKEN_PATH") or f"{base}/token"
    try:
        return Path(file).expanduser().read_text().strip()
    except (OSError, ValueError):
        return ""


def is_offline(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the person has said that the Hub is not to be asked."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def headers() -> dict[str, str]:
    """Return the headers of every request. Bytes are wanted as they are kept, so that they can be counted."""
    said = {"User-Agent": "mh", "Accept-Encoding": "identity"}
    found = token()
    return said | ({"Authorization": f"Bearer {found}"} if found else {})


def listing_url(model: str, revision: str) -> str:
    """Return where the files of a model are listed, with their sizes and digests."""
    return f"{endpoint()}/api/models/{model}/revision/{quote(revision, safe='')}?blobs=true"


def file_url(listing: Listing, file: HubFile) -> str:
    """Return where a file's content is; it may lead on to somewhere else."""
    return f"{endpoint()}/{listing.model}/resolve/{listing.commit}/{quote(file.path)}"


def read_listing(model: str, answer: Any) -> Listing:
    """Read the answer of ``listing_url``.

    Raises:
        PullFailed: it is not what the Hub answers, or names files outside of the model's folder.
    """
    try:
        commit = str(answer["sha"])
        files = tuple(_file(entry) for entry in answer["siblings"])
    except (KeyError, TypeError, ValueError) as error:
        raise _strange(model) from error
    if not _COMMIT.fullmatch(commit):
        raise _strange(model)
    return Listing(model=model, commit=commit, files=files)


def _file(entry: Any) -> HubFile:
    large = entry.get("lfs") or {}
    digest = str(large.get("sha256") or large.get("oid") or entry["blobId"])
    size = int(large.get("size") or entry.get("size") or 0)
    path = str(entry["rfilename"])
    if not _DIGEST.fullmatch(digest) or size < 0 or not _is_inside(path):
        raise ValueError(path)
    return HubFile(path=path, size=size, digest=digest)


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path


def _strange(model: str) -> PullFailed:
    return PullFailed(
        f"{host()} gave an answer about {model} that is not the Hugging Face Hub's. Check HF_ENDPOINT."
    )


def refusal(model: str, revision: str, status: int, said: Mapping[str, str]) -> MhError:
    """Return the error a person should see for a status that is not success.

    Args:
        model: what was asked for.
        revision: branch, tag or commit of it.
        status: of HTTP.
        said: the answer's headers.
    """
    code, reason = said.get("X-Error-Code", ""), said.get("X-Error-Message", "")[:_LONGEST_REASON]
    if code == "GatedRepo":
        return PullFailed(_gated(model), code="model_gated", param="model")
    if code == "RevisionNotFound":
        return UnknownModel(f"{model} has no revision “{revision}” on {host()}.", param="model")
    if status == 401 and "Invalid credentials" in reason:  # noqa: PLR2004
        message = (
            f"{host()} does not accept the access token in HF_TOKEN. Make a new one, or unset it."
        )
        return PullFailed(message, code="hub_token_refused")
    if code == "RepoNotFound" or status in {401, 404}:
        return UnknownModel(_unknown(model), param="model")
    return PullFailed(_failed(model, status, reason or "no reason given"))


def _failed(model: str, status: int, reason: str) -> str:
    if status == 403:  # noqa: PLR2004
        return f"{host()} does not let us have {model}: {reason}."
    if status == _HTTP_TOO_MANY:
        return f"{host()} says that we ask too often. Pull {model} again in a few minutes."
    return f"{host()} failed ({status}) for {model}: {reason}. Pull it again later."


def may_pass(status: int) -> bool:
    """Say whether the same request may succeed a moment later."""
    return status in {408, _HTTP_TOO_MANY} or status >= _HTTP_SERVER


def _gated(model: str) -> str:
    how = "that account's access token" if token() else "an access token of that account"
    return (
        f"{model} is gated: its publisher lets in whom it knows. Accept the terms at {endpoint()}/{model}, "
        f"set HF_TOKEN to {how} where mh runs, and pull again."
    )


def _unknown(model: str) -> str:
    private = "it is private to others" if token() else "it is private: then set HF_TOKEN"
    return f"There is no model “{model}” on {host()}, or {private}. Check the name: publisher/name."
