"""Clients that chat all the time, over every surface, and know a failed or half answer when they see one."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

ASKED = [{"role": "user", "content": "Count to sixteen."}]
TOKENS = 16
OPTIONS = {"max_tokens": TOKENS, "temperature": 0}


@dataclass
class Report:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    #: Each text that somebody got for an answer.
    texts: Counter[str] = field(default_factory=Counter)
    #: By backend, where the surface says who answered.
    by_backend: Counter[str] = field(default_factory=Counter)
    news: dict[str, asyncio.Event] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    #: Seconds from asking to the first piece of the answer, the longest by surface.
    longest: dict[str, float] = field(default_factory=dict)

    def answered(self, surface: str, text: str, seconds: float, backend: str = "") -> None:
        self.answers[surface] += 1
        self.texts[text] += 1
        self.by_backend[backend] += bool(backend)
        if backend in self.news:
            self.news[backend].set()
        self.longest[surface] = max(self.longest.get(surface, 0.0), seconds)

    async def next_answer(self, backend: str) -> None:
        """Wait until somebody else has been answered by ``backend``."""
        self.news.setdefault(backend, asyncio.Event()).clear()
        await self.news[backend].wait()

    def failed(self, surface: str, why: object) -> None:
        self.failures.append(f"{surface}: {why!r}"[:400])

    def lines(self) -> str:
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self.answers.items()))
        longest = ", ".join(f"{name} {s:.2f} s" for name, s in sorted(self.longest.items()))
        return f"{sum(self.answers.values())} answers ({counted}); longest wait: {longest}"


class Clients:
    """So many clients, a fourth of them on each surface, until they are told to stop."""

    def __init__(self, url: str, token: str, *, count: int = 32, seconds: float = 120) -> None:
        self._url, self._count, self._seconds = url, count, seconds
        self._headers = {"Authorization": f"Bearer {token}"}
        self._stop = asyncio.Event()
        self.report = Report()

    async def run(self) -> Report:
        surfaces = (self._v1_stream, self._v1_whole, self._chat_stream, self._socket)
        async with httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=self._seconds,
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
        ) as http:
            await asyncio.gather(*(surfaces[number % 4](http) for number in range(self._count)))
        return self.report

    def stop(self) -> None:
        """Let every client finish what it asks, and end."""
        self._stop.set()

    async def _v1_stream(self, http: httpx.AsyncClient) -> None:
        body = {"messages": ASKED, "stream": True, "max_tokens": TOKENS, "temperature": 0}
        while not self._stop.is_set():
            began, first, text = time.monotonic(), 0.0, ""
            reason, ended = None, False
            try:
                async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                    if answer.status_code != 200:
                        self.report.failed("v1 stream", (await answer.aread())[:300])
                        continue
                    async for line in answer.aiter_lines():
                        first = first or (
                            time.monotonic() - began if line.startswith("data") else 0
                        )
                        ended = ended or line == "data: [DONE]"
                        piece, ending = _chunk(line)
                        text, reason = text + piece, ending or reason
            except httpx.HTTPError as exc:
                self.report.failed("v1 stream", exc)
                continue
            if ended and reason:
                self.report.answered("v1 stream", text, first)
            else:
                self.report.failed("v1 stream", f"truncated: {reason=} {ended=}")

    async def _v1_whole(self, http: httpx.AsyncClient) -> None:
        body = {"messages": ASKED, "max_tokens": TOKENS, "temperature": 0}
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = await http.post("/v1/chat/completions", json=body)
            except httpx.HTTPError as exc:
                self.report.failed("v1", exc)
                continue
            choice = answer.json()["choices"][0] if answer.status_code == 200 else {}
            if choice.get("finish_reason"):
                text = choice["message"]["content"]
                self.report.answered("v1", text, time.monotonic() - began)
            else:
                self.report.failed("v1", answer.text[:300])

    async def _chat_stream(self, http: httpx.AsyncClient) -> None:
        body = {"messages": ASKED, "stream": True, "options": OPTIONS}
        while not self._stop.is_set():
            events: list[dict[str, Any]] = []
            began, first = time.monotonic(), 0.0
            try:
                async with http.stream("POST", "/api/chat", json=body) as answer:
                    if answer.status_code != 200:
                        self.report.failed("chat stream", (await answer.aread())[:300])
                        continue
                    async for line in answer.aiter_lines():
                        if line.startswith("data: "):
                            events.append(json.loads(line.removeprefix("data: ")))
                            if events[-1]["type"] == "token":
                                first = first or time.monotonic() - began
            except httpx.HTTPError as exc:
                self.report.failed("chat stream", exc)
                continue
            self._judge("chat stream", events, first)

    async def _socket(self, http: httpx.AsyncClient) -> None:
        del http
        url = self._url.replace("http", "ws", 1) + "/ws/chat/"
        async with connect(url, additional_headers=self._headers, proxy=None) as socket:
            number = 0
            while not self._stop.is_set():
                number += 1
                await self._one_on_socket(socket, str(number))

    async def _one_on_socket(self, socket: ClientConnection, chat_id: str) -> None:
        frame = {"type": "chat", "id": chat_id, "messages": ASKED}
        await socket.send(json.dumps(frame | {"options": OPTIONS}))
        events: list[dict[str, Any]] = []
        began, first = time.monotonic(), 0.0
        async with asyncio.timeout(self._seconds):
            while not events or events[-1]["type"] not in {"done", "error"}:
                events.append(json.loads(await socket.recv()))
                if events[-1]["type"] == "token":
                    first = first or time.monotonic() - began
        self._judge("socket", events, first)

    def _judge(self, surface: str, events: list[dict[str, Any]], first: float) -> None:
        if not events or events[-1]["type"] != "done":
            self.report.failed(surface, events[-1] if events else "no event")
            return
        backend = next(event["backend"] for event in events if event["type"] == "start")
        text = "".join(event["content"] for event in events if event["type"] == "token")
        self.report.answered(surface, text, first, backend)


def _chunk(line: str) -> tuple[str, str | None]:
    """Return the text and the finish reason of one line of a stream."""
    if not line.startswith("data: {"):
        return "", None
    choices = json.loads(line.removeprefix("data: ")).get("choices")
    if not choices:
        return "", None
    return choices[0]["delta"].get("content") or "", choices[0].get("finish_reason")
