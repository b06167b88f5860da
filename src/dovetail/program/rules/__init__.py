"""The lowering rules: one function per traced operation, from its arguments to nodes of the op table. No torch here."""

from dovetail.program.rules import arithmetic, layers, pooling, shaping
from dovetail.program.rules.table import RULES

__all__ = ["RULES", "arithmetic", "layers", "pooling", "shaping"]
