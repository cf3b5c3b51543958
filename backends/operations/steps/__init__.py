"""The steps. Each may be taken again after its runner died: it looks at what is, then does the rest.

A step reports through its context and raises an error of ``backends.errors`` when it cannot go on;
whoever runs it records that and undoes what was done.
"""

from backends.operations.steps import attached
from backends.operations.steps.checking import preflight
from backends.operations.steps.installing import install
from backends.operations.steps.library import delete, download
from backends.operations.steps.loading import load, undo_load, unload
from backends.operations.steps.parking import finish_unload, release
from backends.operations.steps.settling import settle
from backends.operations.steps.starting import commit, resume, start, warm
from backends.operations.steps.stopping import drain, hold
from backends.operations.steps.undoing import finish_stop, restore, undo_start

__all__ = [
    "attached",
    "commit",
    "delete",
    "download",
    "drain",
    "finish_stop",
    "finish_unload",
    "hold",
    "install",
    "load",
    "preflight",
    "release",
    "restore",
    "resume",
    "settle",
    "start",
    "undo_load",
    "undo_start",
    "unload",
    "warm",
]
