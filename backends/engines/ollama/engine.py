"""The Ollama plugin: each method hands over to the module that knows."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from backends.engines.base import (
    Cancelled,
    Capabilities,
    Detection,
    Engine,
    Launch,
    LoadedModel,
    ModelDetails,
    ModelInfo,
    Problem,
    Progress,
    RunningServer,
    Target,
    Transfer,
    never,
)
from backends.engines.estimates import Estimate
from backends.engines.ollama import (
    client,
    command,
    estimate,
    installation,
    library,
    log,
    names,
    preflight,
    running,
    store,
)
from backends.engines.ollama.options import OllamaOptions


class OllamaEngine(Engine):
    """Ollama's server: many models in one process, each in a runner of its own while it is loaded."""

    name: ClassVar[str] = "ollama"
    title: ClassVar[str] = "Ollama"
    Options: ClassVar[type[OllamaOptions]] = OllamaOptions
    capabilities: ClassVar[Capabilities] = Capabilities(
        park=True,
        pull=True,
        delete=True,
        many_models=True,
        openai_api=True,
        structured_output=True,
    )
    units: ClassVar[tuple[str, ...]] = ("ollama.service",)
    install_command: ClassVar[str] = "curl -fsSL https://ollama.com/install.sh | sh"

    def detect(self) -> Detection:
        """Look for the program; its version is asked once."""
        return installation.detect()

    def looked_for(self) -> tuple[str, ...]:
        """Name the variable, the command on ``PATH`` and the usual places."""
        return installation.looked_for()

    def models(self, options: OllamaOptions) -> list[ModelInfo]:
        """Read the models folder."""
        return store.inventory(store.folder(options))

    def preflight(self, options: OllamaOptions) -> list[Problem]:
        """Check program, network, models folder and model."""
        return preflight.preflight(options)

    def estimate(self, options: OllamaOptions) -> Estimate:
        """Read the header of the model's file."""
        return estimate.estimate(options)

    def launch(self, options: OllamaOptions) -> Launch:
        """Build the command; raises ``EngineNotInstalled``."""
        return command.launch(options, installation.find())

    def running(self, options: OllamaOptions, *, timeout: float) -> RunningServer | None:
        """Look for a server at the endpoint, whoever started it."""
        endpoint = Launch(
            argv=(), host=options.host, port=options.port, served_model=options.model
        ).endpoint
        return running.find(options, endpoint, timeout)

    def is_ready(self, target: Target, *, timeout: float) -> bool:
        """Ask ``/api/version``. The model is loaded, and checked, by ``warm_up``."""
        return client.is_healthy(target, timeout)

    def is_healthy(self, target: Target, *, timeout: float) -> bool:
        """Ask ``/api/version``."""
        return client.is_healthy(target, timeout)

    def loaded_model(self, target: Target, *, timeout: float) -> str | None:
        """Ask ``/api/ps``."""
        return client.loaded_model(target, timeout)

    def version(self, target: Target, *, timeout: float) -> str:
        """Ask ``/api/version``."""
        return client.version(target, timeout)

    def warm_up(self, target: Target, *, timeout: float, cancelled: Cancelled = never) -> None:
        """Load the model, and generate one token."""
        client.warm_up(target, timeout, cancelled)

    def progress(self, log_tail: Sequence[str]) -> Progress | None:
        """Read the stage of a start or a load."""
        return log.progress(log_tail)

    def failure_reason(self, log_tail: Sequence[str]) -> str:
        """Read why it failed."""
        return log.failure_reason(log_tail)

    def models_of(self, target: Target, *, timeout: float) -> list[ModelInfo]:
        """Ask ``/api/tags``."""
        return client.models(target, timeout)

    def loaded(self, target: Target, *, timeout: float) -> list[LoadedModel]:
        """Ask ``/api/ps``."""
        return client.loaded(target, timeout)

    def load(
        self, target: Target, model: str, *, timeout: float, cancelled: Cancelled = never
    ) -> None:
        """Load a model, verified."""
        client.load(target, model, timeout, cancelled)

    def unload(self, target: Target, model: str, *, timeout: float) -> None:
        """Unload a model, verified."""
        client.unload(target, model, timeout)

    def park(self, target: Target, *, timeout: float) -> None:
        """Unload every model, verified."""
        client.unload_all(target, timeout)

    def unpark(self, target: Target, *, timeout: float, cancelled: Cancelled = never) -> None:
        """Load the served model again, and generate one token."""
        client.warm_up(target, timeout, cancelled)

    def show(self, target: Target, model: str, *, timeout: float) -> ModelDetails:
        """Ask ``/api/show``."""
        return client.show(target, model, timeout)

    def pull(
        self,
        target: Target,
        model: str,
        *,
        report: Callable[[Transfer], None],
        cancelled: Cancelled = never,
        options: OllamaOptions | None = None,
    ) -> None:
        """Download a model, byte by byte."""
        del options
        library.pull(target, model, report=report, cancelled=cancelled)

    def delete(
        self, target: Target, model: str, *, timeout: float, options: OllamaOptions | None = None
    ) -> None:
        """Delete a model."""
        del options
        library.delete(target, model, timeout)

    def is_same_model(self, one: str, other: str) -> bool:
        """Compare whole names: ``qwen3`` is ``qwen3:latest``."""
        return names.is_same(one, other)

    def library_launch(self, options: OllamaOptions, port: int) -> Launch:
        """Build the command of a server for the store alone; raises ``EngineNotInstalled``."""
        return command.library_launch(options, installation.find(), port)
