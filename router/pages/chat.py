"""The Chat page: conversations side by side over ``/ws/chat/``, kept in the browser; one prompt as a form without scripts."""

import asyncio
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts.actors import Actor
from accounts.errors import Invalid, MhError, NotAllowed, UpstreamTimedOut
from accounts.pages import Page, only, shown
from accounts.permissions import Permission, is_allowed
from router import registry_payloads, selectors, services
from router.events import ChatResult
from router.schemas import ChatRequest, parse

#: Seconds a form waits for its answer: a browser shows nothing meanwhile, and a thread is taken.
FORM_SECONDS: Final = 120.0
_PROMPT_MAX: Final = 100_000


@only("GET")
def chat(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show the page. What is said on it is not known here: it is in the browser."""
    return shown(request, "router/chat.html", "Chat", _context(actor))


def _context(actor: Actor) -> dict[str, Any]:
    roles = registry_payloads.roles(actor.user)
    config = {
        "user": actor.user.pk if actor.user else 0,
        "roles": roles,
        "models": registry_payloads.models(actor.user),
        "served": selectors.model_cards(actor.user),
        "imagesMax": settings.MH_IMAGES_MAX,
        "imageMaxBytes": settings.MH_IMAGE_MAX_BYTES,
        "backendUrl": reverse("admin:llm-backend"),
        "mayOperate": is_allowed(actor.user, Permission.BACKENDS_OPERATE),
    }
    return {"config": config, "roles": roles}


@only("POST")
def ask(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Answer one prompt at once: the form where no JavaScript runs. Nothing of it is kept."""
    role, prompt = request.POST.get("role", ""), request.POST.get("prompt", "").strip()
    context: dict[str, Any] = {**_context(actor), "asked_role": role, "prompt": prompt}
    status = 200
    try:
        context["answer"] = _answer(actor, role, prompt)
    except NotAllowed:
        raise
    except MhError as exc:
        context["problem"], status = exc.message, exc.status
    response = shown(request, "router/chat.html", "Chat", context)
    response.status_code = status
    return response


def _answer(actor: Actor, role: str, prompt: str) -> ChatResult:
    if not prompt or len(prompt) > _PROMPT_MAX:
        raise Invalid(f"Write a prompt of 1 to {_PROMPT_MAX} characters.", param="prompt")
    messages = [{"role": "user", "content": prompt}]
    request = parse(ChatRequest, {"role": role or None, "messages": messages})
    return async_to_sync(_answered)(actor, request)


async def _answered(actor: Actor, request: ChatRequest) -> ChatResult:
    try:
        async with asyncio.timeout(FORM_SECONDS):
            return await services.chat_complete(actor=actor, request=request)
    except TimeoutError as exc:
        raise UpstreamTimedOut(
            f"There was no whole answer within {FORM_SECONDS:.0f} s, and it was stopped. Ask for something shorter,"
            " or use the page with JavaScript, which shows answers as they come."
        ) from exc


PAGE = Page(
    name="chat",
    title="Chat",
    path="router/chat/",
    icon="chat",
    section="Models",
    permission=Permission.CHAT,
    view=chat,
    order=10,
    actions=(("chat-ask", "ask", ask),),
)
