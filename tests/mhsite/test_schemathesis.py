"""Everything the API's description says is so: good and bad requests made from it, as everybody.

schemathesis makes the requests: the document's examples, the edges of every schema, and drawn ones, fitting
and not. Each answer is held against the document: no 5xx but those it names, no status, content type, header
or shape that it does not name, nothing accepted that does not fit, nothing refused that does.

The usual run sends a sample, always the same one. ``MH_TEST_SCHEMATHESIS=50`` sends everything, and so many
drawn requests of each operation more: some minutes.
"""

import hashlib
import itertools
import os
from collections.abc import Iterator
from typing import Any, Final

import pytest
import requests
import schemathesis
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CheckContext
from schemathesis.config import SchemathesisConfig
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode

from tests.router.live import Site, live_site

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]

EXAMPLES: Final = int(os.environ.get("MH_TEST_SCHEMATHESIS", "0"))
#: Of how many requests one is sent in the usual run, by who sends it.
ONE_OF: Final = {"owner": 8, "standard": 32, "guest": 64, "anonymous": 64}
#: Reasons for which a request that fits the document may be refused: what is named is not there, not possible
#: here, or too much. That it does not fit is no reason; then the document would be wrong.
REASONS: Final = {
    "account_needed",
    "context_length_exceeded",
    "idempotency_key_reused",
    "image_url_refused",
    "invalid_cursor",
    "invalid_image",
    "invalid_options",
    "invalid_provider",
    "invalid_time_range",
    "max_tokens_too_large",
    "model_not_offered",
    "not_supported",
    "nothing_to_answer",
    "secret_needed",
    "two_revisions",
    "unknown_model",
    "unknown_provider",
}


def document() -> dict[str, Any]:
    made: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


def configuration() -> SchemathesisConfig:
    config = SchemathesisConfig()
    project = config.projects.default
    # A refusal by 400 or 422 is judged by ``reasons`` below: not every rule can be said in a schema.
    project.checks.positive_data_acceptance.expected_statuses = [
        *("2xx", "401", "403", "404", "409", "429", "5xx"),
        *("400", "422"),
    ]
    project.generation.update(deterministic=True, no_shrink=not EXAMPLES, database="none")
    return config


api = schemathesis.openapi.from_dict(document(), config=configuration())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A site with a fake engine, where operations are taken and nobody runs them."""
    with live_site() as running:
        running.manage(
            "from backends import bus; bus.redis_client().set('mh:worker:testnode', '1')"
        )
        yield running


@pytest.fixture(scope="module")
def connection() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


_number = itertools.count()


def tamed(case: schemathesis.Case) -> schemathesis.Case:
    """Change what would make a run long, or talk to others, and nothing else."""
    query, headers, body = case.query, case.headers, case.body
    # Nobody runs the operations, so each would be waited for as long as is asked: up to 15 minutes.
    if isinstance(query, dict) and _is_number(query.get("wait")):
        query["wait"] = min(float(query["wait"]), 0.01)
    # A key is used once; that it is refused for another request is shown in test_idempotency.
    for name in [name for name in headers or {} if name.lower() == "idempotency-key"]:
        if isinstance(headers[name], str) and 0 < len(headers[name]) < 240:
            headers[name] += f"-{next(_number)}"
    # Credentials would be tried at the address drawn, which is somebody's.
    is_account = case.operation.path.startswith("/api/providers") and isinstance(body, dict)
    if is_account and isinstance(body.get("check", True), bool):
        body["check"] = False
    return case


def _is_number(text: Any) -> bool:
    try:
        return float(text) >= 0
    except (TypeError, ValueError):
        return False


def reasons(ctx: CheckContext, response: Response, case: schemathesis.Case) -> None:
    """A request that fits is refused for a reason of its own, or not at all."""
    fits = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if not fits or response.status_code not in {400, 422} or "\\u0000" in _sent(case):
        return  # NUL: refused everywhere, because no database keeps it
    error = response.json()["error"]
    code = response.json()["code"] if isinstance(error, str) else error["code"]
    assert code in REASONS, f"what fits the document was refused with {code}: {error}"


def _sent(case: schemathesis.Case) -> str:
    return ascii((case.path_parameters, case.query, case.headers, case.body)).replace(
        "\\x00", "\\u0000"
    )


def is_sent(case: schemathesis.Case, who: str) -> bool:
    """Choose a sample that is the same in every run."""
    if EXAMPLES or (case.meta is not None and case.meta.phase.name.value == "examples"):
        return True
    digest = hashlib.sha256(f"{case.operation.label} {case.method} {_sent(case)}".encode()).digest()
    return int.from_bytes(digest[:4]) % ONE_OF[who] == 0


@api.parametrize()
@settings(
    max_examples=EXAMPLES or 10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_document_is_true(
    case: schemathesis.Case, site: Site, connection: requests.Session
) -> None:
    case = tamed(case)
    for who in ONE_OF:
        if is_sent(case, who):
            headers = site.auth_of(who) if who in site.tokens else {}
            answer = case.call(base_url=site.url, session=connection, headers=headers)
            case.validate_response(answer, additional_checks=[reasons], headers=headers)
