"""The process that stands for a loaded model: ``llama-server`` or ``ollama runner``, child of ``fake_ollama``.

Standard library only, so that a load takes a moment. As the real ones it ignores TERM, listens on a
random loopback port, and does not notice that its server is gone. One line of JSON is a request:
``{"words": […], "delay": seconds}``, answered by one line per word and ``{"done": true}``.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time


def value(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def gone(connection: socket.socket, seconds: float) -> bool:
    """Wait; say whether the client has left meanwhile."""
    readable, _, _ = select.select([connection], [], [], seconds)
    return bool(readable) and not connection.recv(1)


def answer(connection: socket.socket) -> None:
    with connection:
        request = json.loads(connection.makefile().readline() or "{}")
        try:
            for word in request.get("words", []):
                if gone(connection, request.get("delay", 0)):
                    return
                connection.sendall(json.dumps({"word": word}).encode() + b"\n")
            connection.sendall(b'{"done": true}\n')
        except OSError:
            return


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open("/proc/self/comm", "w") as comm:  # noqa: PTH123 — pathlib takes long to import
        comm.write(os.environ["FAKE_OLLAMA_COMM"])
    ballast = bytearray(b"x") * (int(os.environ["FAKE_OLLAMA_RUNNER_MB"]) << 20)
    time.sleep(float(os.environ["FAKE_OLLAMA_LOAD"]))
    if os.environ.get("FAKE_OLLAMA_CRASH_LOAD"):
        print("error loading model: the fake was told to fail", file=sys.stderr, flush=True)
        sys.exit(1)
    listener = socket.socket(fileno=int(os.environ["FAKE_OLLAMA_FD"]))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()
    del ballast


if __name__ == "__main__":
    main()
