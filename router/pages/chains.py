"""What the buttons of a chain do. Pure."""

from collections.abc import Sequence

from accounts.errors import InvalidRequest


def chain_changed(chain: Sequence[str], do: str, which: str) -> list[str]:
    """Return the chain after ``do``: ``up``, ``down``, ``remove`` or ``add`` one, or ``save`` it as it is.

    What cannot be moved further stays.

    Raises:
        InvalidRequest: there is no such button, or the chain has no such model.
    """
    found = list(chain)
    if do == "save":
        return found
    if do == "add":
        return [*found, which] if which else found
    if do not in {"up", "down", "remove"} or which not in found:
        raise InvalidRequest(
            "Press a button of the chain: up, down, remove, add or save.", param="do"
        )
    place = found.index(which)
    found.remove(which)
    if do != "remove":
        found.insert(max(0, place + (-1 if do == "up" else 1)), which)
    return found
