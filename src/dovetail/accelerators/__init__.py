"""Cycle and energy models of accelerators. Needs numpy, never torch. Importing this fills `MACHINES`."""

from dovetail.accelerators.cambricon_x import CambriconX
from dovetail.accelerators.circnn import Circnn
from dovetail.accelerators.cnvlutin import Cnvlutin
from dovetail.accelerators.common_size import of_common_size
from dovetail.accelerators.draw import drawn
from dovetail.accelerators.eie import Eie
from dovetail.accelerators.energy import ACCELERGY45, COSTS, DRAM, ISSCC45, CostSet, costs_named
from dovetail.accelerators.escalate import Escalate
from dovetail.accelerators.eyeriss import Eyeriss
from dovetail.accelerators.machine import MACHINES, Machine, machine_named, register
from dovetail.accelerators.memory import chained
from dovetail.accelerators.parts import as_convolutions
from dovetail.accelerators.permdnn import Permdnn
from dovetail.accelerators.record import record
from dovetail.accelerators.roofline import Roofline
from dovetail.accelerators.scnn import Scnn
from dovetail.accelerators.sensitivity import sensitivity
from dovetail.accelerators.simulation import Simulation, recorded, simulate
from dovetail.accelerators.sparten import Sparten
from dovetail.accelerators.systolic import Systolic
from dovetail.accelerators.trace import Charge, Trace, total
from dovetail.accelerators.workload import Workload

__all__ = [
    "ACCELERGY45",
    "COSTS",
    "DRAM",
    "ISSCC45",
    "MACHINES",
    "CambriconX",
    "Charge",
    "Circnn",
    "Cnvlutin",
    "CostSet",
    "Eie",
    "Escalate",
    "Eyeriss",
    "Machine",
    "Permdnn",
    "Roofline",
    "Scnn",
    "Simulation",
    "Sparten",
    "Systolic",
    "Trace",
    "Workload",
    "as_convolutions",
    "chained",
    "costs_named",
    "drawn",
    "machine_named",
    "of_common_size",
    "record",
    "recorded",
    "register",
    "sensitivity",
    "simulate",
    "total",
]
