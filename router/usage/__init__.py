"""What requests cost: measured, recorded, limited, and asked for.

A request is measured by a ``Meter``, which hands one ``Record`` to ``record`` when it ends; whether it
may begin, ``admit`` says. Everything else here reads.
"""

from router.usage import flowing
from router.usage.meter import Meter, admission
from router.usage.quotas import admit
from router.usage.recording import Record, close_in, flush, record
from router.usage.recording import start as start_recording
from router.usage.tail import Tail, usage_in

__all__ = [
    "Meter",
    "Record",
    "Tail",
    "admission",
    "admit",
    "close_in",
    "flush",
    "record",
    "start",
    "usage_in",
]


def start() -> None:
    """Begin to write usage, and to tell what flows, in this process. For a server, before its first request."""
    start_recording()
    flowing.start()
