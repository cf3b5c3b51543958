"""``mh check``, ``mh test``, ``mh bench``: for whoever changes mh. `./bin/mh` installs what they need."""

from typing import Annotated

import typer

from mhsite.cli.output import Json, Output

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(check)
    app.command(context_settings=_PASS_ON)(test)
    app.command(context_settings=_PASS_ON)(bench)


def check(*, as_json: Json = False) -> None:
    """Run every check that needs no test run: lint, types, import rules, migrations, OpenAPI, docs."""
    from mhsite.cli.checks import run_checks

    results = run_checks(show=not as_json)
    good = all(result.good for result in results)
    payload = [
        {"name": r.name, "good": r.good, "seconds": round(r.seconds, 1), "output": r.output}
        for r in results
    ]
    Output(as_json=as_json).result({"good": good, "checks": payload})
    if not good:
        raise typer.Exit(1)


def test(context: typer.Context, *, as_json: Json = False) -> None:  # noqa: PT028 - a command
    """Run every test: unit tests, processes, faults, then those on real vLLM and in a real browser.

    Arguments go to one pytest run instead: mh test tests/router -k stream; mh test -m faults
    """
    from mhsite.cli.tests import run_tests

    results = run_tests(context.args, quiet=as_json)
    payload = [{"name": name, "status": status} for name, status in results.items()]
    worst = max(results.values(), default=0)
    Output(as_json=as_json).result({"good": worst == 0, "runs": payload})
    raise typer.Exit(worst)


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Benchmark; all of them by default.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Run the benchmarks, print tables, write JSON under benchmarks/results/.

    What follows the name goes to that benchmark: mh bench proxy --only nginx --only uvicorn
    """
    from mhsite.cli.benchmarks import run_benchmarks

    results = run_benchmarks(name, context.args, quiet=as_json)
    Output(as_json=as_json).result(results)
