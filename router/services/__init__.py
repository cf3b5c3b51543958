"""Chats, and writes to the registry.

No database connection is held while an engine answers: everything the database knows is read before,
in one piece of synchronous code (``admission``).
"""

from router.registry_files import registry_export
from router.services.accounts import (
    provider_account_check,
    provider_account_create,
    provider_account_delete,
    provider_account_update,
)
from router.services.admission import Admitted, OpenAICall, admit
from router.services.chatting import chat, chat_admitted, chat_admitted_complete, chat_complete
from router.services.deployment import deployment_import, deployment_set
from router.services.embedding import embed_admitted
from router.services.entries import model_entry_create, model_entry_delete, model_entry_update
from router.services.openai_formats import relay, relay_complete
from router.services.registry import registry_import
from router.services.relaying import Write, models_list
from router.services.roles import role_set, role_unset
from router.services.showing import Shown, model_show, models_loaded

__all__ = [
    "Admitted",
    "OpenAICall",
    "Shown",
    "Write",
    "admit",
    "chat",
    "chat_admitted",
    "chat_admitted_complete",
    "chat_complete",
    "deployment_import",
    "deployment_set",
    "embed_admitted",
    "model_entry_create",
    "model_entry_delete",
    "model_entry_update",
    "model_show",
    "models_list",
    "models_loaded",
    "provider_account_check",
    "provider_account_create",
    "provider_account_delete",
    "provider_account_update",
    "registry_export",
    "registry_import",
    "relay",
    "relay_complete",
    "role_set",
    "role_unset",
]
