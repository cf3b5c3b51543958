"""What an owner enters for RunPod."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, model_validator

from router.providers.addresses import BaseUrl
from router.providers.base import ProviderSettings

EndpointId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
#: The key of ``endpoints`` that answers for every model without one of its own.
DEFAULT: Final = "default"


class RunPodSettings(ProviderSettings):
    """Which endpoints, with which key, and how patiently."""

    api_key: SecretStr = Field(
        SecretStr(""),
        alias="apiKey",
        title="API key",
        description="One that may call serverless endpoints.",
    )
    endpoint_id: EndpointId = Field(
        "",
        alias="endpointId",
        title="Endpoint",
        description="The id of the serverless endpoint that answers: the last part of its address.",
    )
    endpoints: dict[str, EndpointId] = Field(
        {},
        title="Endpoints by model",
        description="For several: the model an entry names, and the endpoint that serves it; default for all others.",
    )
    mode: Literal["auto", "queue", "openai", "loadBalancing"] = Field(
        "auto",
        title="Route",
        description=(
            "queue: jobs, which say how they wait and are cancelled when nobody wants them. openai: the OpenAI-compatible route. "
            "loadBalancing: for endpoints of that type. auto: queue for what it can carry, else openai."
        ),
    )
    job_input: Literal["messages", "request"] = Field(
        "messages",
        alias="jobInput",
        title="Input of jobs",
        description=(
            "messages: what every vLLM worker reads. request: a whole request, with tools, images and schemas; "
            "vLLM workers from 2.24 on."
        ),
    )
    execution_timeout: int = Field(
        600,
        alias="executionTimeout",
        ge=5,
        le=86_400,
        title="Execution time-out (seconds)",
        description="A job that runs longer is ended by RunPod.",
    )
    ttl: int = Field(
        1200,
        ge=10,
        le=86_400,
        title="Time to live (seconds)",
        description="A job that has not ended so long after it was sent, waiting included, is given up and cancelled.",
    )
    poll_min: float = Field(
        0.2,
        alias="pollMin",
        ge=0.01,
        le=60,
        title="Shortest pause between polls (seconds)",
        description="While tokens come.",
    )
    poll_max: float = Field(
        1.5,  # less than an idle connection is kept: ``pool.KEEP_IDLE``
        alias="pollMax",
        ge=0.01,
        le=60,
        title="Longest pause between polls (seconds)",
        description="While the job waits. RunPod allows 2000 polls in 10 seconds for each endpoint.",
    )
    max_tokens: int = Field(
        2048,
        alias="maxTokens",
        ge=1,
        le=10_000_000,
        title="Longest answer (tokens)",
        description="Of jobs whose request does not say: vLLM workers before 2.24 would stop after 100.",
    )
    api_url: BaseUrl = Field(
        "https://api.runpod.ai/v2",
        alias="apiUrl",
        title="Address of the API",
        description="Change it for a gateway of your own.",
    )
    load_balancing_url: str = Field(
        "https://{endpoint}.api.runpod.ai",
        alias="loadBalancingUrl",
        pattern=r"^https?://\S+$",
        max_length=512,
        title="Address of load-balancing endpoints",
        description="{endpoint} stands for the endpoint's id.",
    )

    @model_validator(mode="after")
    def _polls_in_order(self) -> Self:
        if self.poll_min > self.poll_max:
            msg = "pollMin is longer than pollMax"
            raise ValueError(msg)
        return self

    def endpoint_of(self, model: str) -> str:
        """Return the id of the endpoint that serves ``model``; empty where none is set."""
        return self.endpoints.get(model) or self.endpoint_id or self.endpoints.get(DEFAULT, "")
