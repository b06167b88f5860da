"""The CPU engine: runs Programs with native kernels. Needs numpy and the native module, never torch."""

from dovetail.engine.native import NativeStatus, native_status
from dovetail.engine.schedule import Schedule
from dovetail.engine.session import Bound, LayerTime, Session

__all__ = ["Bound", "LayerTime", "NativeStatus", "Schedule", "Session", "native_status"]
