"""Fetching a model from the Hub: by bytes, several files at once, taken up where it ended, given up at once.

The transfer runs on a thread and an event loop of its own; whoever asked looks every ``CHECK_SECONDS``
at whether it is still wanted, and says how far it is.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import httpx

from accounts.errors import MhError
from backends.engines.base import Cancelled, Transfer
from backends.engines.huggingface import api, choice
from backends.engines.huggingface.api import HubFile, Listing
from backends.engines.huggingface.cache import Repository
from backends.errors import OperationCancelled, PullFailed

#: Seconds between two looks at whether the download is still wanted.
CHECK_SECONDS: Final = 0.1
#: Files fetched at once.
AT_ONCE: Final = 4
#: Tries in a row that bring not one byte, after which a file is given up.
TRIES: Final = 5
#: Seconds before the second try, growing with each.
PAUSE_SECONDS: Final = 0.5
#: Longest piece asked for at once, in bytes: the Hub serves no more than 50 GB in one answer.
PIECE_BYTES: Final = 8 << 30
#: Bytes left free on the disk when all is fetched.
SPARE_BYTES: Final = 256 << 20
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
_HASH_CHUNK: Final = 4 << 20
_SHA256_DIGITS: Final = 64


def download(
    model: str,
    *,
    revision: str,
    hub: Path,
    report: Callable[[Transfer], None],
    cancelled: Cancelled,
) -> Path:
    """Fetch ``model`` into the cache at ``hub``, and return its snapshot. What is there is not fetched again.

    Args:
        model: its name on the Hub.
        revision: branch, tag or commit.
        hub: a folder in the cache's layout; made where it does not exist.
        report: told how far it is, in the caller's thread.
        cancelled: asked in the caller's thread; true, or an exception, ends the transfer at once.

    Raises:
        UnknownModel: the Hub has no such model or revision, or does not show it to us.
        PullFailed: it failed; the message says why. What was fetched is kept for the next time.
        OperationCancelled: ``cancelled`` said so.
    """
    if api.is_offline():
        raise PullFailed("HF_HUB_OFFLINE is set where mh runs: nothing is downloaded. Unset it.")
    work = _Work(model, revision, Repository(hub, model))
    thread = _Thread(work)
    thread.start()
    try:
        while thread.is_alive():
            if cancelled():
                raise OperationCancelled("The download was cancelled.")
            report(work.transfer())
            thread.join(CHECK_SECONDS)
    finally:
        thread.stop()
    if thread.error is not None:
        raise _for_people(model, hub, thread.error)
    report(work.transfer())
    return work.snapshot


def _for_people(model: str, hub: Path, error: BaseException) -> BaseException:
    if isinstance(error, MhError):
        return error
    if isinstance(error, httpx.HTTPError):
        return PullFailed(_unreachable(model, error))
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"The disk of {hub} is full. Make room, and pull {model} again to go on."
            return PullFailed(message, code="disk_full")
        return PullFailed(f"{model} could not be kept in {hub}: {error.strerror or error}.")
    return error


def _unreachable(model: str, error: httpx.HTTPError) -> str:
    kind = str(error) or type(error).__name__
    return (
        f"{api.host()} cannot be reached from this machine ({kind}). Pull {model} again to go on."
    )


class _Thread(threading.Thread):
    """Runs the work; ``stop`` ends it and every connection it has."""

    def __init__(self, work: "_Work") -> None:
        super().__init__(name="mh-hub-download", daemon=True)
        self._work = work
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work.run())
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            self.error = group.exceptions[0]
        except Exception as error:  # noqa: BLE001 — carried over to the caller's thread
            self.error = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def stop(self) -> None:
        """End it, if it runs, and wait until it has."""
        self._work.stopped.set()
        if self.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()


@dataclass
class _Work:
    """One download, and how far it is. Written by its thread, read by the one who asked."""

    model: str
    revision: str
    repository: Repository
    message: str = "asking for the list of files"
    total: int = 0
    done: dict[str, int] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    snapshot: Path = field(default_factory=Path)

    def transfer(self) -> Transfer:
        """Say how far it is."""
        return Transfer(
            message=self.message,
            completed_bytes=sum(list(self.done.values())),
            total_bytes=self.total,
        )

    async def run(self) -> None:
        async with httpx.AsyncClient(
            headers=api.headers(), timeout=_TIMEOUT, follow_redirects=True
        ) as client:
            listing = await self._listing(client)
            files = self._chosen(listing)
            gate = asyncio.Semaphore(AT_ONCE)
            # Files of the same content are one.
            unique = {file.digest: file for file in files}
            self._prepare(list(unique.values()))
            async with asyncio.TaskGroup() as group:
                for file in unique.values():
                    group.create_task(self._fetch_when_free(gate, client, listing, file))
        self.snapshot = self.repository.show(listing, files, self.revision)
        self.message = "complete"

    async def _listing(self, client: httpx.AsyncClient) -> Listing:
        answer = await client.get(api.listing_url(self.model, self.revision))
        if not answer.is_success:
            raise api.refusal(self.model, self.revision, answer.status_code, answer.headers)
        try:
            found = answer.json()
        except ValueError:
            found = None
        return api.read_listing(self.model, found)

    def _chosen(self, listing: Listing) -> list[HubFile]:
        files = choice.chosen(listing.files)
        if not files:
            raise PullFailed(
                f"{self.model} has no weights that vLLM can load (*.safetensors or *.bin with a "
                "config.json). Look for another variant of the model.",
                code="model_not_servable",
                param="model",
            )
        return files

    def _prepare(self, files: list[HubFile]) -> None:
        (self.repository.folder / "blobs").mkdir(parents=True, exist_ok=True)
        self.total = sum(file.size for file in files)
        self.done = {file.digest: self.repository.bytes_of(file) for file in files}
        self.message = f"downloading {len(files)} files"
        missing = self.total - sum(self.done.values())
        free = shutil.disk_usage(self.repository.folder).free
        if missing and free < missing + SPARE_BYTES:
            raise PullFailed(
                f"{self.model} needs another {missing / 1e9:.1f} GB in {self.repository.hub}, and "
                f"{free / 1e9:.1f} GB are free there. Make room, or choose another folder: "
                "mh vllm config downloadDir FOLDER",
                code="disk_full",
            )

    async def _fetch_when_free(
        self, gate: asyncio.Semaphore, client: httpx.AsyncClient, listing: Listing, file: HubFile
    ) -> None:
        async with gate:
            if not self.repository.has(file):
                with _only_one(self.repository.partial(file)) as opened:
                    await self._fetch(client, listing, file, opened)

    async def _fetch(
        self, client: httpx.AsyncClient, listing: Listing, file: HubFile, opened: BinaryIO
    ) -> None:
        """Fetch until all is there and its digest is right; then give it its name."""
        failed = 0
        while (have := opened.seek(0, os.SEEK_END)) != file.size:
            if have > file.size:
                opened.truncate(0)
                continue
            try:
                await self._fetch_piece(client, listing, file, opened)
            except (httpx.TransportError, _ForNowError) as error:
                failed = 0 if opened.seek(0, os.SEEK_END) > have else failed + 1
                if failed >= TRIES:
                    raise PullFailed(_broke_off(file, self.model, error)) from error
                await asyncio.sleep(PAUSE_SECONDS * max(1, failed))
        await self._keep(file, opened)

    async def _fetch_piece(
        self, client: httpx.AsyncClient, listing: Listing, file: HubFile, opened: BinaryIO
    ) -> None:
        start = opened.seek(0, os.SEEK_END)
        last = min(file.size, start + PIECE_BYTES) - 1
        url, wanted = api.file_url(listing, file), {"Range": f"bytes={start}-{last}"}
        async with client.stream("GET", url, headers=wanted) as answer:
            self._check(answer, file, start)
            if answer.status_code == httpx.codes.OK:  # it does not do ranges
                opened.truncate(0)
                opened.seek(0)
            async for chunk in answer.aiter_raw():
                opened.write(chunk)
                self.done[file.digest] = opened.tell()
            opened.flush()

    def _check(self, answer: httpx.Response, file: HubFile, start: int) -> None:
        status = answer.status_code
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE or api.may_pass(status):
            raise _ForNowError(f"it answered {status}")
        if not answer.is_success:
            raise api.refusal(self.model, self.revision, status, answer.headers)
        range_ = answer.headers.get("Content-Range", "")
        if status == httpx.codes.PARTIAL_CONTENT and not range_.startswith(f"bytes {start}-"):
            raise _ForNowError(f"it sent another part of {file.path} than asked for")

    async def _keep(self, file: HubFile, opened: BinaryIO) -> None:
        opened.flush()
        found = await asyncio.to_thread(_digest, opened.name, file, self.stopped)
        if self.stopped.is_set():
            raise asyncio.CancelledError
        if found != file.digest:
            opened.truncate(0)
            self.done[file.digest] = 0
            raise PullFailed(
                f"{file.path} of {self.model} arrived damaged: its checksum is not the one {api.host()} "
                "names. Pull it again."
            )
        _rename(opened, self.repository.blob(file))
        self.done[file.digest] = file.size


class _ForNowError(Exception):
    """An answer that the same request may not get again."""


def _broke_off(file: HubFile, model: str, error: Exception) -> str:
    why = str(error) or type(error).__name__
    return (
        f"The download of {file.path} broke off {TRIES} times in a row ({why}). Pull {model} again to go "
        "on where it ended."
    )


def _rename(opened: BinaryIO, path: Path) -> None:
    os.fsync(opened.fileno())
    Path(opened.name).replace(path)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[BinaryIO]:
    """Open a partial file for us alone."""
    with path.open("ab") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "Another mh on this machine is downloading the same model. Wait for it."
            raise PullFailed(message) from None
        yield opened


def _digest(path: str, file: HubFile, stopped: threading.Event) -> str:
    """Return the digest of a file's content, of the kind its listing has."""
    if len(file.digest) == _SHA256_DIGITS:
        hashed = hashlib.sha256()
    else:
        hashed = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with Path(path).open("rb") as opened:
        while (chunk := opened.read(_HASH_CHUNK)) and not stopped.is_set():
            hashed.update(chunk)
    return hashed.hexdigest()
