"""The vLLM plugin: each method hands over to the module that knows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from backends.engines.base import (
    Cancelled,
    Capabilities,
    Detection,
    Engine,
    InstallReport,
    Launch,
    Metrics,
    ModelInfo,
    Problem,
    Progress,
    RunningServer,
    Standby,
    Target,
    Transfer,
    never,
)
from backends.engines.estimates import Estimate
from backends.engines.models_on_disk import inventory
from backends.engines.vllm import (
    client,
    command,
    estimate,
    fast_start,
    install,
    installation,
    library,
    log,
    lora,
    preflight,
    running,
    sleep,
)
from backends.engines.vllm.options import VllmOptions
from backends.errors import EngineNotInstalled


class VllmEngine(Engine):
    """vLLM's OpenAI-compatible server: one model per process, on NVIDIA GPUs or on the CPU."""

    name: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM"
    Options: ClassVar[type[VllmOptions]] = VllmOptions
    capabilities: ClassVar[Capabilities] = Capabilities(
        park=True,
        pull=True,
        delete=True,
        library_on_disk=True,
        openai_api=True,
        structured_output=True,
    )

    def detect(self) -> Detection:
        """Look for a Python that has vLLM."""
        return installation.detect()

    def looked_for(self) -> tuple[str, ...]:
        """Name the variable, mh's own place and the command on ``PATH``."""
        return installation.looked_for()

    def models(self, options: VllmOptions) -> list[ModelInfo]:
        """List mh's own models, those in the site's folders and in the Hugging Face cache."""
        return inventory(command.model_places(options))

    def preflight(self, options: VllmOptions) -> list[Problem]:
        """Check network, installation, model and what is asked of it."""
        return preflight.preflight(options)

    def estimate(self, options: VllmOptions) -> Estimate:
        """Read the headers of the model's weights, and its configuration."""
        return estimate.estimate(options)

    def launch(self, options: VllmOptions) -> Launch:
        """Build the command; raises ``EngineNotInstalled``."""
        try:
            found = installation.find()
            return fast_start.fast(command.launch(options, found), found)
        except installation.NotFoundError as error:
            raise EngineNotInstalled(str(error)) from error

    def standby(self, options: VllmOptions) -> Standby | None:
        """Return a launcher that has imported vLLM, where the launcher knows the installed version."""
        try:
            found = installation.find()
        except installation.NotFoundError:
            return None
        return fast_start.standby(command.launch(options, found), found)

    def running(self, options: VllmOptions, *, timeout: float) -> RunningServer | None:
        """Look for a server at the endpoint, whoever started it."""
        return running.find(options, timeout)

    def is_ready(self, target: Target, *, timeout: float) -> bool:
        """Ask ``/health``, and ``/v1/models`` for the model and its LoRA modules."""
        return client.is_ready(target, timeout)

    def is_healthy(self, target: Target, *, timeout: float) -> bool:
        """Ask ``/health``."""
        return client.is_healthy(target, timeout)

    def also_serves(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of its LoRA modules."""
        return lora.names(options)

    def loaded_model(self, target: Target, *, timeout: float) -> str | None:
        """Return the first model of ``/v1/models``."""
        return next(iter(client.served_models(target, timeout)), None)

    def version(self, target: Target, *, timeout: float) -> str:
        """Ask ``/version``."""
        return client.version(target, timeout)

    def warm_up(self, target: Target, *, timeout: float, cancelled: Cancelled = never) -> None:
        """Chat one token."""
        client.warm_up(target, timeout, cancelled)
        sleep.prepare(target)

    def can_park(self, options: VllmOptions) -> bool:
        """Say whether sleep mode is on, and the installed build has it."""
        if not options.sleepMode:
            return False
        try:
            return installation.find().build != "cpu"
        except installation.NotFoundError:
            return False

    def park(self, target: Target, *, timeout: float) -> None:
        """Put the engine to sleep, verified by its metrics."""
        sleep.park(target, timeout)

    def unpark(self, target: Target, *, timeout: float, cancelled: Cancelled = never) -> None:
        """Wake the engine, verified, and chat one token."""
        sleep.unpark(target, timeout, cancelled)

    def metrics(self, target: Target, *, timeout: float) -> Metrics:
        """Read ``/metrics``."""
        return client.metrics(target, timeout)

    def progress(self, log_tail: Sequence[str]) -> Progress | None:
        """Read the stage of a start."""
        return log.progress(log_tail)

    def failure_reason(self, log_tail: Sequence[str]) -> str:
        """Read why it failed."""
        return log.failure_reason(log_tail)

    def check_pull(self, options: VllmOptions, model: str) -> None:
        """Check that the Hub could have a model of this name."""
        library.check_pull(options, model)

    def pull(
        self,
        target: Target,
        model: str,
        *,
        report: Callable[[Transfer], None],
        cancelled: Cancelled = never,
        options: VllmOptions | None = None,
    ) -> None:
        """Download a model from the Hugging Face Hub into the cache."""
        del target
        library.pull(options or VllmOptions(), model, report=report, cancelled=cancelled)

    def check_delete(self, options: VllmOptions, model: str) -> None:
        """Check that the model is here, and ours to delete."""
        library.check_delete(options, model)

    def delete(
        self, target: Target, model: str, *, timeout: float, options: VllmOptions | None = None
    ) -> None:
        """Delete a model from the cache or from mh's own folder."""
        del target, timeout
        library.delete(options or VllmOptions(), model)

    def install(self, report: InstallReport) -> None:
        """Install the build this machine needs, and the demo model with the CPU build."""
        install.install(report)
