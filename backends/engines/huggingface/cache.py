"""The Hugging Face cache on disk: content by digest, snapshots of links to it, names of commits.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.engines.huggingface.api import HubFile, Listing

#: End of a file that is being fetched by us: nobody else's, so that no two programs write one file.
PARTIAL: Final = ".mh.incomplete"
_DOOMED: Final = ".mh-deleted--"


@dataclass(frozen=True, slots=True)
class Repository:
    """The cache's folder of one model."""

    hub: Path
    model: str

    @property
    def folder(self) -> Path:
        """Where everything of the model is."""
        return self.hub / f"models--{self.model.replace('/', '--')}"

    def blob(self, file: HubFile) -> Path:
        """Return where the content of a file is kept."""
        return self.folder / "blobs" / file.digest

    def partial(self, file: HubFile) -> Path:
        """Return where the content of a file is gathered until all of it is there."""
        return self.folder / "blobs" / f"{file.digest}{PARTIAL}"

    def has(self, file: HubFile) -> bool:
        """Return whether the whole content of a file is here."""
        try:
            return self.blob(file).stat().st_size == file.size
        except OSError:
            return False

    def bytes_of(self, file: HubFile) -> int:
        """Return how much of a file is here."""
        if self.has(file):
            return file.size
        try:
            return min(file.size, self.partial(file).stat().st_size)
        except OSError:
            return 0

    def snapshot(self, commit: str) -> Path:
        """Return the folder that shows the model as it is at ``commit``."""
        return self.folder / "snapshots" / commit

    def show(self, listing: Listing, files: Iterable[HubFile], revision: str) -> Path:
        """Make the snapshot of a model whose files are all here, and name it; return it.

        The name comes last: a model without it is in no inventory.
        """
        snapshot = self.snapshot(listing.commit)
        for file in files:
            _link(snapshot / file.path, self.blob(file))
        if revision != listing.commit:
            name = self.folder / "refs" / revision
            name.parent.mkdir(parents=True, exist_ok=True)
            _write(name, listing.commit)
        return snapshot

    def delete(self) -> bool:
        """Remove the model with every revision; return whether anything was there.

        It is out of sight at once, and its bytes go after that.
        """
        doomed = self.folder.with_name(_DOOMED + self.folder.name)
        was_here = self.folder.is_dir() or doomed.is_dir()
        remove(self.folder, doomed)
        shutil.rmtree(self.hub / ".locks" / self.folder.name, ignore_errors=True)
        return was_here


def remove(folder: Path, doomed: Path) -> None:
    """Remove a folder by way of another name, under which it is nobody's any more.

    Raises:
        OSError: something of it cannot be removed.
    """
    if doomed.exists():  # an earlier removal was interrupted
        shutil.rmtree(doomed)
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _link(path: Path, blob: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    target = os.path.relpath(blob, path.parent)
    if path.is_symlink() and str(path.readlink()) == target:
        return
    temporary = path.with_name(f".{path.name}.mh")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.mh")
    temporary.write_text(text)
    temporary.replace(path)
