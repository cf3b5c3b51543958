"""The engine itself, brought onto this machine. Touches neither the GPU nor an engine that serves."""

from backends import services
from backends.engines.base import InstallReport
from backends.errors import CannotDo
from backends.operations.context import Context


class _Report(InstallReport):
    """Tells those who watch how far it is, and ends it when that is asked for."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def __call__(self, fraction: float, message: str) -> None:
        """Report 0 to 1 of the whole, and what is being done."""
        self.ctx.checkpoint()
        self.ctx.say(message, min(0.99, fraction))


def install(ctx: Context) -> None:
    """Install the engine; taken again, or asked for again after a cancel, it goes on where it was."""
    try:
        ctx.engine.install(_Report(ctx))
    except NotImplementedError as exc:
        raise CannotDo(f"{ctx.engine.title} is not installed by mh.") from exc
    found = ctx.engine.detect()
    services.step_message(ctx.operation, ctx.step, f"{ctx.engine.title} {found.version}".strip())
