"""The settings pages about who answers: roles, providers, tokens, usage."""

from typing import Final

from accounts.pages import Page, Section
from accounts.permissions import Permission
from router.pages import (
    chat,
    deployment,
    entries,
    models,
    providers,
    registry_file,
    roles,
    tokens,
    usage,
)

PAGES: Final[tuple[Page, ...]] = (
    chat.PAGE,
    models.PAGE,
    Page(
        name="roles",
        title="Roles",
        path="router/roles/",
        icon="account_tree",
        section="Models",
        permission=Permission.REGISTRY_OWN,
        view=roles.roles,
        order=20,
        actions=(
            ("roles-change", "change/", roles.role_change),
            ("roles-add", "add/", roles.role_add),
            ("roles-model", "model/", entries.model),
            ("roles-model-delete", "model/delete/", roles.model_delete),
            ("roles-export", "export/", registry_file.export_file),
            ("roles-import", "import/", registry_file.import_file),
        ),
    ),
    Page(
        name="providers",
        title="Providers",
        path="router/providers/",
        icon="cloud",
        section="Models",
        permission=Permission.REGISTRY_MANAGE,
        view=providers.providers,
        order=40,
        actions=(
            ("providers-form", "account/", providers.provider),
            ("providers-check", "check/", providers.provider_check),
            ("providers-delete", "delete/", providers.provider_delete),
        ),
    ),
    Page(
        name="usage",
        title="Usage",
        path="router/usage/",
        icon="bar_chart",
        section="Records",
        permission=Permission.CHAT,
        view=usage.usage,
        order=20,
        actions=(("usage-quota", "quota/", usage.quota_change),),
    ),
    Page(
        name="tokens",
        title="Tokens",
        path="accounts/my-tokens/",
        icon="key",
        section="People",
        permission=Permission.TOKENS_OWN,
        view=tokens.tokens,
        order=20,
        actions=(("tokens-revoke", "revoke/", tokens.token_revoke),),
    ),
)
#: What stands on pages of other rooms.
SECTIONS: Final[tuple[Section, ...]] = (deployment.SECTION,)
