"""A fake engine that ignores every polite request to leave."""

import signal

from reporting import report, wait_for_ever

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
report("engine")
wait_for_ever()
