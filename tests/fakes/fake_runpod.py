"""A fake RunPod: one account, any endpoint, jobs with their states, vLLM workers of both generations. No model.

Paths as at api.runpod.ai: ``/v2/{endpoint}/run``, ``/stream/{id}``, ``/status/{id}``, ``/cancel/{id}``, ``/health``,
``/openai/v1/*``; ``/lb/{endpoint}/*`` stands for a load-balancing endpoint. ``GET /_fake/state`` shows the jobs.

Source: Runpod documentation "Operation reference", "Job states and metrics"; runpod-workers/worker-vllm.

==================== =========================================================================
``cold=N``           jobs are IN_QUEUE for N polls while a worker starts
``stuck``            jobs stay IN_QUEUE; no GPU is free
``busy=N``           jobs are IN_QUEUE for N polls; workers run, others are before them
``worker=KIND``      ``old`` (up to 2.23: batches of tokens; the default), ``new`` (2.24: raw SSE), ``public`` (bare element)
``cut=N``            ``new``: the stream is cut every N bytes, inside characters too
``unstreamed``       nothing on ``/stream``; the output is in ``/status``
``bare-array``       ``/stream`` answers with a bare array, as the documentation shows
``slow``             one element each poll; without it all at once
``endless``          the job never ends
``fail=JSON``        the job fails with this ``error``
``error-element``    the worker puts out ``{"error": …}`` and the job is COMPLETED
``ends=STATUS``      the job ends as this: TIMED_OUT, CANCELLED
``forget``           the job is unknown (404) once it has begun
``no-done``          ``new``: the stream lacks its end
``lose-poll=N``      N answers to ``/stream`` are lost on their way, with what they held
``polls-cut``        no poll is answered; other calls are
``poll-limit=N``     N polls are answered 429
``run-status=CODE``  ``/run`` answers this
``run-cut``          ``/run`` takes the job and its answer is lost
``run-slow=S``       ``/run`` takes the job and answers S seconds later
``cancel-fails=N``   N tries to cancel are answered 500
``error-under-200``  the OpenAI route answers with an error as JSON under HTTP 200
``no-workers``       a load-balancing endpoint has none
==================== =========================================================================
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.cloud import WORDS, FakeCloud, data, main, stream

ENDPOINTS = ("demo", "other")


@dataclass
class Job:
    """One job, as the fake keeps it."""

    id: str
    endpoint: str
    input: dict[str, Any]
    policy: dict[str, Any]
    status: str = "IN_QUEUE"
    polls: int = 0
    #: Elements that the worker has put out, and those of them that ``/stream`` has given.
    made: int = 0
    given: int = 0
    output: list[Any] = field(default_factory=list)
    error: str | None = None
    #: How many times a worker took it.
    runs: int = 0


class FakeRunPod(FakeCloud):
    """One fake account."""

    def __init__(self, *behaviour: str, key: str = "") -> None:
        super().__init__(*behaviour, key=key)
        self.jobs: dict[str, Job] = {}

    def state(self) -> dict[str, Any]:
        jobs = [asdict(job) for job in self.jobs.values()]
        return {**super().state(), "submitted": len(self.asked("/run")), "jobs": jobs}

    def count(self, status: str) -> int:
        """Return how many jobs are in this state."""
        return sum(job.status == status for job in self.jobs.values())

    def routes(self, app: web.Application) -> None:
        base = "/v2/{endpoint}"
        app.router.add_post(f"{base}/run", self._run)
        app.router.add_get(f"{base}/stream/{{id}}", self._stream)
        app.router.add_get(f"{base}/status/{{id}}", self._status)
        app.router.add_post(f"{base}/cancel/{{id}}", self._cancel)
        app.router.add_get(f"{base}/health", self._health)
        app.router.add_post(f"{base}/openai/v1/chat/completions", self._openai)
        app.router.add_get("/lb/{endpoint}/ping", self._ping)
        app.router.add_post("/lb/{endpoint}/v1/chat/completions", self._openai)

    # -- jobs

    async def _run(self, request: web.Request) -> web.StreamResponse:
        behaviour = self.behaviour
        if request.match_info["endpoint"] not in ENDPOINTS:
            return web.json_response({"error": "endpoint not found"}, status=404)
        if behaviour.has("run-status"):
            status = int(behaviour.number("run-status"))
            return web.json_response({"error": "no"}, status=status, headers={"Retry-After": "3"})
        body = await request.json()
        job = Job(
            id=f"job{len(self.jobs) + 1}-u1",
            endpoint=request.match_info["endpoint"],
            input=body["input"],
            policy=body.get("policy", {}),
        )
        self.jobs[job.id] = job
        self.changed.set()
        if behaviour.has("run-cut"):
            cut(request)
        # The platform goes on with a request whose client has left.
        await asyncio.shield(asyncio.sleep(behaviour.number("run-slow")))
        return web.json_response({"id": job.id, "status": job.status})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if refused := self._poll_refused(request):
            return refused
        job = self._job(request)
        self._advance(job)
        given, job.given = job.output[job.given : job.made], job.made
        if self.behaviour.has("unstreamed"):
            given = []
        if given and self.behaviour.take("lose-poll"):
            return cut(request)
        chunks = [{"output": element, "metrics": {}} for element in given]
        if self.behaviour.has("bare-array"):
            return web.json_response(chunks)
        return web.json_response({"status": job.status, "stream": chunks})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        if refused := self._poll_refused(request):
            return refused
        job = self._job(request)
        self._advance(job)
        answer: dict[str, Any] = {"id": job.id, "status": job.status, "delayTime": 12}
        if job.status == "COMPLETED":
            bare = self.behaviour.text("worker") == "public"
            answer["output"] = job.output[0] if bare else job.output
        if job.error is not None:
            answer["error"] = job.error
        return web.json_response(answer)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        if self.behaviour.take("cancel-fails"):
            return web.json_response({"error": "internal"}, status=500)
        job = self._job(request)
        if job.status not in {"IN_QUEUE", "IN_PROGRESS"}:
            return web.json_response({"error": "job is over"}, status=400)
        job.status = "CANCELLED"
        self.changed.set()
        return web.json_response({"id": job.id, "status": "CANCELLED"})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["endpoint"] not in ENDPOINTS:
            return web.json_response({"error": "endpoint not found"}, status=404)
        queued = self.count("IN_QUEUE")
        workers = {"idle": 0, "running": 0, "initializing": 0, "throttled": 0}
        if self.behaviour.has("cold"):
            workers["initializing"] = 1
        elif self.behaviour.has("stuck"):
            workers["throttled"] = 3
        elif self.behaviour.has("busy"):
            workers["running"], queued = 3, queued + 4
        else:
            workers["idle"] = 1
        jobs = {"completed": 1, "failed": 0, "inProgress": 0, "inQueue": queued, "retried": 0}
        return web.json_response({"jobs": jobs, "workers": workers})

    def _job(self, request: web.Request) -> Job:
        job = self.jobs.get(request.match_info["id"])
        if job is None or (self.behaviour.has("forget") and job.polls > 0):
            raise web.HTTPNotFound
        return job

    def _poll_refused(self, request: web.Request) -> web.Response | None:
        if self.behaviour.has("polls-cut"):
            return cut(request)
        if self.behaviour.take("poll-limit"):
            return web.json_response({"error": "too many"}, status=429)
        return None

    def _slowly(self) -> bool:
        return self.behaviour.has("slow") or self.behaviour.has("endless")

    def _advance(self, job: Job) -> None:
        """Do what time does: each poll is a step."""
        job.polls += 1
        behaviour = self.behaviour
        if job.status == "IN_QUEUE" and not behaviour.has("stuck"):
            wait = max(behaviour.number("cold"), behaviour.number("busy"))
            if job.polls > wait:
                self._begin(job)
        elif job.status == "IN_PROGRESS":
            if job.made == len(job.output) and not behaviour.has("endless"):
                job.status = "COMPLETED"
            job.made = min(job.made + 1, len(job.output)) if self._slowly() else len(job.output)
        self.changed.set()

    def _begin(self, job: Job) -> None:
        job.status, job.runs = "IN_PROGRESS", job.runs + 1
        if self.behaviour.has("fail"):
            job.status, job.error = "FAILED", self.behaviour.text("fail")
        elif self.behaviour.has("ends"):
            job.status = self.behaviour.text("ends")
        else:
            job.output = self._output(job)

    def _output(self, job: Job) -> list[Any]:
        if self.behaviour.has("error-element"):
            return [{"error": "CUDA is not available."}]
        kind = self.behaviour.text("worker", "old")
        if kind == "new":
            return self._raw(job)
        if kind == "public":
            return [{"choices": [{"tokens": ["".join(WORDS)]}], "usage": USAGE_OLD, "cost": 0.01}]
        if not job.input.get("stream"):
            return [{"choices": [{"tokens": ["".join(WORDS)]}], "usage": USAGE_OLD}]
        batches, start = [], 0
        for size in (1, 3, 9):
            words = WORDS[start : start + size]
            start += size
            made = min(start, len(WORDS))
            batches.append({"choices": [{"tokens": words}], "usage": {"input": 9, "output": made}})
        return batches

    def _raw(self, job: Job) -> list[Any]:
        frames = [chunk({"role": "assistant", "content": ""})]
        frames += [chunk({"content": word}) for word in WORDS] + [chunk({}, "stop")]
        frames.append(data({"choices": [], "usage": USAGE_NEW}))
        if not self.behaviour.has("no-done"):
            frames.append(data("[DONE]"))
        raw = b"".join(frames)
        size = int(self.behaviour.number("cut", len(raw)))
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        return [piece.decode(errors="surrogateescape") for piece in pieces]

    # -- the OpenAI-compatible route

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.behaviour.has("no-workers"):
            return web.json_response({"error": "no workers available"}, status=400)
        if self.behaviour.has("error-under-200"):
            message = "This model's maximum context length is 2048 tokens. However, you requested 3008 tokens."
            error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
            return web.json_response({"object": "error", "error": error})
        with self.generating():
            if body.get("stream"):
                return await stream(request, self._openai_frames())
            choice = {"index": 0, "message": {"content": "".join(WORDS)}, "finish_reason": "stop"}
            return web.json_response({"choices": [choice], "usage": USAGE_NEW})

    async def _openai_frames(self) -> Any:
        yield chunk({"role": "assistant", "content": ""})
        for word in WORDS:
            yield chunk({"content": word})
        yield chunk({}, "stop") + data("[DONE]")

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(status=204 if self.behaviour.has("cold") else 200)


def cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    return data({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


USAGE_OLD = {"input": 9, "output": len(WORDS)}
USAGE_NEW = {"prompt_tokens": 9, "completion_tokens": len(WORDS), "total_tokens": 9 + len(WORDS)}
#: What a worker of 2.24 makes of a failure of its engine.
FAILURE = json.dumps(
    {
        "error_type": "<class 'RuntimeError'>",
        "error_message": "engine died in /app/handler.py",
        "error_traceback": "Traceback (most recent call last)…",
        "hostname": "worker-1",
        "worker_id": "w1",
        "runpod_version": "1.12.0",
    }
)

if __name__ == "__main__":
    main(FakeRunPod)
