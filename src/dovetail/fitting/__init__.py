"""From a dense network and a budget to a plan, and to a trained network that keeps it.

First the machine is asked: how fast the best dense network is in any runtime, how fast the dense layers are on our
engine, and how fast they would be in other formats. Then the network: how much its answers suffer from each format.
Then formats are chosen; what comes of it is written down before anything is trained.
"""

from dovetail.fitting.choices import choose
from dovetail.fitting.fits import (
    SENSITIVE,
    Fit,
    as_array,
    first_images,
    fit,
    on_machine,
)
from dovetail.fitting.modelled import Modelled
from dovetail.fitting.modelled import came_to as modelled_costs
from dovetail.fitting.offers import Asked
from dovetail.fitting.outcomes import Expected, came_of, came_to, kept
from dovetail.fitting.prices import open_table, references, words
from dovetail.fitting.rehearsals import Rehearsal, raced_as_surveyed, rehearse
from dovetail.fitting.surveys import CALIBRATION, Survey, against_peers, in_values, layer_seconds, survey
from dovetail.fitting.widths import choose_width, width_within

__all__ = [
    "CALIBRATION",
    "SENSITIVE",
    "Asked",
    "Expected",
    "Fit",
    "Modelled",
    "Rehearsal",
    "Survey",
    "against_peers",
    "as_array",
    "came_of",
    "came_to",
    "choose",
    "choose_width",
    "first_images",
    "fit",
    "in_values",
    "kept",
    "layer_seconds",
    "modelled_costs",
    "on_machine",
    "open_table",
    "raced_as_surveyed",
    "references",
    "rehearse",
    "survey",
    "width_within",
    "words",
]
