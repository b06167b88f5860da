"""Which format each layer gets: candidates, what they cost and what they spoil, and an allocator under a budget.

Costs are given, as tables that somebody measured or as functions of a model: the search knows no engine and no machine.
"""

from dovetail.search.allocate import allocate, tdc_rule
from dovetail.search.budget import Budget, Limit
from dovetail.search.candidates import Candidate, Group
from dovetail.search.table import CostTable

__all__ = ["Budget", "Candidate", "CostTable", "Group", "Limit", "allocate", "tdc_rule"]
