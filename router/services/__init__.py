"""Chats, and writes to the registry.

No database connection is held while an engine answers: everything the database knows is read before,
in one piece of synchronous code (``admission``).
"""

from router.services.admission import Admitted, OpenAICall, admit
from router.services.chatting import chat, chat_admitted, chat_admitted_complete, chat_complete
from router.services.registry import registry_export, registry_import
from router.services.relaying import models_list, relay, relay_complete

__all__ = [
    "Admitted",
    "OpenAICall",
    "admit",
    "chat",
    "chat_admitted",
    "chat_admitted_complete",
    "chat_complete",
    "models_list",
    "registry_export",
    "registry_import",
    "relay",
    "relay_complete",
]
