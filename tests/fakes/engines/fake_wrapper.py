"""A fake launcher: dies at TERM and leaves the real engine, which ends well if it is given a moment."""

import os
import signal
import sys
import threading

from reporting import report, wait_for_ever

if os.fork():
    report("wrapper")
    wait_for_ever()


def end_well(*_):
    connection.sendall(b'"saving"\n')
    threading.Timer(0.7, lambda: (connection.sendall(b'"saved"\n'), os._exit(0))).start()


signal.signal(signal.SIGTERM, end_well)
connection = report("engine")
sys.stdout.flush()
wait_for_ever()
