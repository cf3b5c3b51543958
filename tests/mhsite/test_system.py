"""Health, the API's description, security settings and log lines."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import call_command
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.security import SecurityMiddleware
from django.test import Client
from django.utils.module_loading import import_string

from accounts.masking import MASK, mask_event, mask_line
from mhsite import system_views
from tests.backends.faults.table import fault
from tests.mhsite.test_routes import TABLE

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).parents[2]


def test_alive_needs_nothing(client: Client) -> None:
    assert client.get("/health/live").json() == {"status": "ok"}


def test_ready_names_what_is_missing_and_nothing_else(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> bool:
        raise RuntimeError("redis://:hunter2@example.org is away")

    checks = {"database": lambda: True, "broker": broken, "worker": lambda: False}
    monkeypatch.setattr(system_views, "_CHECKS", checks)
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "failed",
        "checks": {"database": "ok", "broker": "failed", "worker": "failed"},
    }
    monkeypatch.setattr(system_views, "_CHECKS", {"database": system_views._database})
    assert client.get("/health/ready").status_code == 200


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    text = io.StringIO()
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=text)
    described: dict[str, Any] = yaml.safe_load(text.getvalue())
    return described


def test_every_route_is_described_with_its_errors(schema: dict[str, Any]) -> None:
    for route, methods in TABLE.items():
        if route in {"", "api/docs", "api/schema", "ollama/"} or "(?P<" in route:
            continue
        path = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", route)
        path = path.replace("/v1/models/{model_id}", "/v1/models/{model}")
        assert path in schema["paths"], path
        for method in methods:
            operation = schema["paths"][path][method.lower()]
            if path.startswith("/health/"):
                continue
            error = operation["responses"]["401"]["content"]["application/json"]["schema"]
            shape = "OllamaError" if path.startswith("/ollama/") else "Error"
            assert error == {"$ref": f"#/components/schemas/{shape}"}, path


def test_chat_is_described_from_the_model_that_checks_it(schema: dict[str, Any]) -> None:
    chat = schema["components"]["schemas"]["ChatRequest"]
    assert "messages" in chat["required"]
    assert '"null"' not in json.dumps(schema["components"]["schemas"]), "OpenAPI 3.0 has no null"


def test_the_middleware_the_silenced_checks_look_for_is_there() -> None:
    ours = [import_string(name) for name in settings.MIDDLEWARE]
    for wanted in (SecurityMiddleware, XFrameOptionsMiddleware, CsrfViewMiddleware):
        assert any(isinstance(m, type) and issubclass(m, wanted) for m in ours), wanted
    assert set(settings.SILENCED_SYSTEM_CHECKS) == {f"security.W00{n}" for n in (1, 2, 3)}


@pytest.mark.process
def test_production_settings_raise_no_warning(tmp_path: Path) -> None:
    """The checks that look for Django's own middleware by name are silent, so the settings are looked at."""
    names = [
        "SECURE_HSTS_SECONDS",
        "SECURE_SSL_REDIRECT",
        "SESSION_COOKIE_SECURE",
        "CSRF_COOKIE_SECURE",
        "SECURE_CONTENT_TYPE_NOSNIFF",
        "X_FRAME_OPTIONS",
        "DEBUG",
    ]
    look = f"import json\nfrom django.conf import settings as s\nprint(json.dumps([getattr(s, n) for n in {names}]))"
    environment = {
        **os.environ,
        "MH_HOME": str(tmp_path),
        "MH_HTTPS": "1",
        "MH_SECRET_KEY": "k3y" * 25 + "abcdefghijklmnop",
        "DJANGO_SETTINGS_MODULE": "mhsite.settings",
    }
    check = ["manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = subprocess.run(
        [sys.executable, *check],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = subprocess.run(
        [sys.executable, "-c", look],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(seen.stdout) == [31536000, True, True, True, True, "DENY", False]


def test_log_lines_hide_secrets_and_keep_the_rest() -> None:
    event = mask_event(
        None, "info", {"event": "hello", "api_key": "abc", "n": 3, "exc_info": (1, 2)}
    )
    assert event == {"event": "hello", "api_key": MASK, "n": 3, "exc_info": (1, 2)}
    assert mask_line(None, "info", "used mh_" + "0" * 64) == f"used {MASK}"


@fault(38)
def test_tracebacks_show_no_variables_and_no_secrets() -> None:
    formatter = next(h.formatter for h in logging.getLogger().handlers if h.name == "console")
    assert formatter is not None
    try:
        local = "only-in-a-variable"
        raise RuntimeError("bad hf_" + "A" * 30 if local else "")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    line = formatter.format(record)
    assert "RuntimeError: bad" in line
    assert "hf_AAAA" not in line
    assert "only-in-a-variable" not in line.replace('local = "only-in-a-variable"', "")
