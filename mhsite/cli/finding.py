"""What a doctor says of one thing it looked at. Imports nothing that needs Django."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    good: bool
    message: str
