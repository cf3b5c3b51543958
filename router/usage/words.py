"""Numbers of usage in words."""

_SECOND_MS = 1000


def number_text(count: int | None) -> str:
    """Return ``1,234,567``; a dash for what nobody knows."""
    return "—" if count is None else f"{count:,}"


def milliseconds_text(value: float | None) -> str:
    """Return ``180 ms`` or ``1.2 s``, as ``format.js`` writes them; a dash for what nobody knows."""
    if value is None:
        return "—"
    return f"{value:.0f} ms" if value < _SECOND_MS else f"{value / _SECOND_MS:.1f} s"
