"""Methods: each trains a network into formats, in phases (one published system each)."""

from typing import Final

from dovetail.methods.base import Kept, Method, Phase, Plan
from dovetail.methods.block import Block
from dovetail.methods.circnn import CirCnn
from dovetail.methods.distill import Distill
from dovetail.methods.escalate import Escalate
from dovetail.methods.int8 import Int8
from dovetail.methods.magnitude import Magnitude
from dovetail.methods.mixed import Mixed
from dovetail.methods.penni import Penni
from dovetail.methods.permdnn import PermDnn
from dovetail.methods.tdc import Tdc
from dovetail.methods.thin import Thin
from dovetail.methods.tucker import Tucker

METHODS: Final[dict[str, type[Method]]] = {
    "block": Block,
    "circnn": CirCnn,
    "escalate": Escalate,
    "int8": Int8,
    "magnitude": Magnitude,
    "mixed": Mixed,
    "penni": Penni,
    "permdnn": PermDnn,
    "tdc": Tdc,
    "thin": Thin,
    "tucker": Tucker,
}
"""Name in a recipe → method; `Distill` is an option of all of them."""

__all__ = [
    "METHODS",
    "Block",
    "CirCnn",
    "Distill",
    "Escalate",
    "Int8",
    "Kept",
    "Magnitude",
    "Method",
    "Mixed",
    "Penni",
    "PermDnn",
    "Phase",
    "Plan",
    "Tdc",
    "Thin",
    "Tucker",
]
