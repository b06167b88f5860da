"""The `dovetail` command: finds the verb, and turns errors into one paragraph and an exit status."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError

from dovetail import __version__
from dovetail.cli.console import error_width, logs_on_stderr
from dovetail.errors import DovetailError, Interrupted

FAILED, REFUSED, DEFECT, INTERRUPTED = 1, 2, 70, 130

VERBS = {
    "demo": ("demo:demo", "Train, compress, pack and race a small network; writes report.html."),
    "train": ("train:train", "Train a dense network on a data set."),
    "compress": ("compress:compress", "Train a network into a method's formats and pack it."),
    "fit": ("fit:fit", "Choose formats by measured time so that a network meets a budget; train and check it."),
    "pack": ("pack:pack", "Lower a network into a .dovetail file."),
    "quantize": ("quantize:quantize", "A packed network in whole numbers: int8, without training."),
    "run": ("run:run", "Run a packed network on one input."),
    "eval": ("evaluate:evaluate", "Accuracy on the test set."),
    "bench": ("bench:bench", "The fair race: networks against other runtimes."),
    "speed": ("speed:speed", "What all races have measured, beside what they should reach."),
    "shapes": ("shapes:app", "Single layers of networks, timed and drawn under the roofline."),
    "simulate": ("simulate:simulate", "Cycles and energy of networks on models of accelerators."),
    "paper": ("paper:paper", "What a paper claims of its machine, beside what the models say."),
    "inspect": ("inspect:inspect", "The layers of a packed network: format, size, work, time."),
    "export": ("export:export", "Write ONNX with standard ops only."),
    "recipe": ("recipe:app", "Run, verify and list recipes: one file, one result."),
    "report": ("report:report", "One HTML page from committed results."),
    "doctor": ("doctor:doctor", "What this machine and installation can do."),
}
ALIASES = {"pack": "lower", "bench": "race"}


class Failed(DovetailError):
    """The command ran and the answer is no (a verification that does not hold): exit status 1."""


_STATUS: dict[type[Exception], int] = {Failed: FAILED, Interrupted: INTERRUPTED}


def build() -> App:
    """The command tree; no verb's module is loaded."""
    app = App(
        name="dovetail",
        help="Fit a neural network to the machine that runs it: compress, pack, run, race.",
        help_epilogue="Any verb takes --debug (show tracebacks). Data and weights are looked for in --data or "
        "DOVETAIL_DATA.",
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for order, (name, (where, words)) in enumerate(VERBS.items()):
        app.command(f"dovetail.cli.{where}", name=name, alias=ALIASES.get(name), help=words, sort_key=order)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    try:
        with logs_on_stderr(logging.DEBUG if debug else logging.INFO):
            return _status(build()(tokens, exit_on_error=False, print_error=False, help_on_error=False))
    except KeyboardInterrupt:
        _say("interrupted; nothing is left half-written")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone (dovetail … | head)
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - the interpreter flushes it at exit
        return 0
    except (DovetailError, CycloptsError, OSError) as error:
        if debug:
            raise
        _say(_message(error))
        return _STATUS.get(type(error), REFUSED)
    except Exception as error:
        if debug:
            raise
        _say(f"this is a defect of Dovetail: {type(error).__name__}: {error}; please report it with what --debug shows")
        return DEFECT


def _status(result: object) -> int:
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _message(error: Exception) -> str:
    if isinstance(error, CycloptsError):
        return f"{str(error).strip()} See dovetail {_verb(error)}--help."
    if isinstance(error, OSError):
        where = f"{Path(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path, its permissions and the space left on the disk"
    return str(error)


def _verb(error: CycloptsError) -> str:
    return "".join(f"{part} " for part in error.command_chain or ())


def _say(message: str) -> None:
    paragraph = " ".join(message.split())
    print(
        textwrap.fill(f"dovetail: {paragraph}", error_width(), break_long_words=False, break_on_hyphens=False),
        file=sys.stderr,
    )
