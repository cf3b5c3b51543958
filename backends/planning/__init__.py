"""Does it fit? What a model needs, against what a machine has and what a switch would free.

Pure: numbers in, a ``Plan`` out. Nothing here reads a file, a GPU or the database.
"""

from backends.planning.machine import Gpu, Machine
from backends.planning.needs import Need, PastStart, need
from backends.planning.plan import GpuPart, Obstacle, Plan, Suggestion, Verdict
from backends.planning.verdict import plan

__all__ = [
    "Gpu",
    "GpuPart",
    "Machine",
    "Need",
    "Obstacle",
    "PastStart",
    "Plan",
    "Suggestion",
    "Verdict",
    "need",
    "plan",
]
