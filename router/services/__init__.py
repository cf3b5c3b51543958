"""Chats, and writes to the registry.

No database connection is held while an engine answers: everything the database knows is read before,
in one piece of synchronous code (``admission``).
"""

from router.services.admission import Admitted, OpenAICall, admit
from router.services.chatting import chat, chat_admitted, chat_admitted_complete, chat_complete
from router.services.embedding import embed_admitted
from router.services.registry import registry_export, registry_import
from router.services.relaying import models_list, relay, relay_complete
from router.services.showing import Shown, model_show, models_loaded

__all__ = [
    "Admitted",
    "OpenAICall",
    "Shown",
    "admit",
    "chat",
    "chat_admitted",
    "chat_admitted_complete",
    "chat_complete",
    "embed_admitted",
    "model_show",
    "models_list",
    "models_loaded",
    "registry_export",
    "registry_import",
    "relay",
    "relay_complete",
]
