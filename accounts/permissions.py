"""The one place that decides who may do what. Pure: no database, no request."""

from enum import StrEnum
from typing import Final

from accounts.models import Role, User


class Permission(StrEnum):
    """A thing somebody may be allowed to do. Also the scope names of tokens."""

    STATUS_READ = "status:read"
    CHAT = "chat"
    TOKENS_OWN = "tokens:own"
    #: Models and roles of one's own, which win over the site's for oneself.
    REGISTRY_OWN = "registry:own"
    #: Those of the site, and the accounts at providers.
    REGISTRY_MANAGE = "registry:manage"
    BACKENDS_OPERATE = "backends:operate"
    LOGS_READ = "logs:read"
    AUDIT_READ = "audit:read"
    USERS_MANAGE = "users:manage"


_GUEST: Final = frozenset({Permission.STATUS_READ})
_STANDARD: Final = _GUEST | {Permission.CHAT, Permission.TOKENS_OWN, Permission.REGISTRY_OWN}
GRANTS: Final[dict[str, frozenset[Permission]]] = {
    Role.OWNER: frozenset(Permission),
    Role.STANDARD: _STANDARD,
    Role.GUEST: _GUEST,
}
#: What the owner of one backend may do with it, whatever their role.
BACKEND_OWNER_GRANTS: Final = frozenset({Permission.BACKENDS_OPERATE, Permission.LOGS_READ})


def is_allowed(
    user: User | None,
    permission: Permission,
    *,
    scopes: tuple[str, ...] = (),
    backend_owner_id: int | None = None,
) -> bool:
    """Return whether ``user`` may do ``permission``.

    Args:
        user: None for somebody not signed in; an inactive user may do nothing.
        permission: what is asked for.
        scopes: the scopes of the token used, if it has any; they only ever narrow.
        backend_owner_id: primary key of the owner of the backend concerned, where there is one.
    """
    if user is None or not user.is_active:
        return False
    if scopes and permission not in scopes:
        return False
    if permission in GRANTS.get(user.role, frozenset()):
        return True
    return backend_owner_id == user.pk and permission in BACKEND_OWNER_GRANTS
