"""A fake engine without bad habits: listens on a port, leaves at TERM with status 0."""

import signal
import socket
import sys

from reporting import report, wait_for_ever

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print("fake engine is listening", flush=True)
report("engine", port=listener.getsockname()[1])
wait_for_ever()
