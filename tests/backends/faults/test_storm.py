"""A hundred who start, stop and switch at once: one engine at most, every operation ends, no 5xx."""

import contextlib
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil

from tests.backends.faults.table import fault
from tests.backends.faults.whole_site import BACKENDS, WholeSite, until

REQUESTS = 100


class Watch:
    """Looks all the time how many engines live."""

    def __init__(self, site: WholeSite) -> None:
        self.together: list[list[psutil.Process]] = []
        self.looks = 0
        self._site = site
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self.looks += 1
            seen = self._site.seen_all().values()
            living = [process for each in seen for process in each.engines]
            # A look takes some milliseconds: what counts is who lives at its end; and a process is
            # one of its parent's tree from the fork on, though its name is not its own yet.
            pids = {process.pid for process in living}
            roots = [process for process in living if _is_root(process, pids)]
            if len(roots) > 1:
                self.together.append(roots)


def _is_root(process: psutil.Process, pids: set[int]) -> bool:
    with contextlib.suppress(psutil.Error):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return process.ppid() not in pids
    return False


@fault(7)
def test_a_hundred_requests_at_once_never_make_two_engines(site: WholeSite) -> None:
    chance = random.Random(7)
    wishes = [
        (chance.choice(("start", "stop", "switch")), chance.choice(BACKENDS))
        for _ in range(REQUESTS)
    ]
    headers = {"X-CSRFToken": site.client.headers["X-CSRFToken"]}
    cookies = dict(site.client.cookies)

    def ask(wish: tuple[str, str]) -> httpx.Response:
        kind, name = wish
        path, body = (kind, {"backend": name}) if kind == "switch" else (f"{name}/{kind}", None)
        with httpx.Client(
            timeout=120, trust_env=False, verify=False, cookies=cookies, headers=headers
        ) as client:
            return client.post(f"{site.url}/api/llm-backend/{path}", json=body)

    with Watch(site) as watch:
        with ThreadPoolExecutor(REQUESTS) as pool:
            answers = list(pool.map(ask, wishes))
        codes = Counter(answer.status_code for answer in answers)
        assert max(codes) < 500, [a.text for a in answers if a.status_code >= 500]
        assert codes.keys() <= {200, 202, 409, 429}, codes
        print("answers:", dict(codes))
        asked = {answer.json()["id"] for answer in answers if answer.status_code in {200, 202}}
        until(lambda: site.status()["operation"] is None, 120, "the end of all", every=0.2)
        rows = [site.operation(each) for each in asked]
    assert watch.looks > 20
    assert not watch.together, watch.together[:3]
    ended: Any = Counter((row["kind"], row["state"]) for row in rows)
    assert not any(state in {"queued", "running"} for _, state in ended), ended
    until(lambda: site.lies() == [], 15, "a true state")
    serving = site.serving()
    done = site.ask("switch", "right" if serving == "left" else "left", wait=60)
    assert done["state"] == "succeeded", done
    assert site.lies() == []
