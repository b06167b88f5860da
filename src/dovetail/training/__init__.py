"""The training loop, its checkpoints, schedules and measurements. It knows hooks, and no method."""

from dovetail.training.loop import History, Record, Score, Settings, evaluate, train
from dovetail.training.phase import ParamGroups, Phase

__all__ = [
    "History",
    "ParamGroups",
    "Phase",
    "Record",
    "Score",
    "Settings",
    "evaluate",
    "train",
]
