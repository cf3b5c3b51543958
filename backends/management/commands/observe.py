"""``manage.py observe``: watch the engines and GPUs of this machine until told to stop."""

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from backends.observer import Observer


class Command(BaseCommand):
    """The observer as a process of its own."""

    help = "Watch the engines and GPUs of this machine and publish what is seen."
    #: They are `mh check`'s, and would load every page and view into a process that has none.
    requires_system_checks = ()

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Run the observer until SIGTERM or SIGINT."""
        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        Observer().run(stopped)
