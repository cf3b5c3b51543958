"""What an owner enters for Hugging Face."""

from typing import Literal

from pydantic import Field, SecretStr

from router.providers.addresses import BaseUrl, MaybeUrl
from router.providers.base import ProviderSettings


class HuggingFaceSettings(ProviderSettings):
    """Which endpoint, or the router; with which token; who pays; how patiently."""

    api_key: SecretStr = Field(
        SecretStr(""),
        alias="apiKey",
        title="Token",
        description="Begins with hf_. It needs the right to call Inference Providers, or the endpoint.",
    )
    endpoint_url: MaybeUrl = Field(
        "",
        alias="endpointUrl",
        title="Inference Endpoint",
        description="Its URL, without a path. Empty: Inference Providers, by the router.",
    )
    api: Literal["auto", "openai", "tgi"] = Field(
        "auto",
        title="What the endpoint speaks",
        description=(
            "openai: chat completions, as vLLM and TGI containers have them. tgi: TGI's classic API, where messages become one "
            "text. auto: openai, and tgi where the endpoint has no such path."
        ),
    )
    bill_to: str = Field(
        "",
        alias="billTo",
        pattern=r"^[\w.-]{0,96}$",
        title="Bill to",
        description="An organisation, or the id of a resource group, that pays for Inference Providers.",
    )
    scale_up_timeout: int = Field(
        300,
        alias="scaleUpTimeout",
        ge=0,
        le=3600,
        title="Scale-up time-out (seconds)",
        description="How long a chat waits for an endpoint that has scaled to zero, or loads its model.",
    )
    max_tokens: int = Field(
        2048,
        alias="maxTokens",
        ge=1,
        le=10_000_000,
        title="Longest answer (tokens)",
        description="For TGI's classic API, of requests that do not say: it would stop after 100.",
    )
    router_url: BaseUrl = Field(
        "https://router.huggingface.co/v1",
        alias="routerUrl",
        title="Address of the router",
        description="Of Inference Providers, up to and with the version.",
    )
    hub_url: BaseUrl = Field(
        "https://huggingface.co",
        alias="hubUrl",
        title="Address of the Hub",
        description="Where a token is tried without generating anything.",
    )
