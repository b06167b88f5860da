"""What `dovetail fit` leaves beside a recipe: its plan with the numbers behind it, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path

from dovetail.errors import DataError
from dovetail.report.fits import Fitted

SUFFIX = ".fit.json"


def beside(recipes: Path) -> list[Path]:
    """The notes in a folder of recipes and in its results, by name."""
    return [path for folder in (recipes, recipes / "results") for path in sorted(folder.glob(f"*{SUFFIX}"))]


def read(path: Path) -> Fitted:
    """The notes in a file; `DataError` where it holds none."""
    try:
        return Fitted.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(
            f"there is no file {path}; `dovetail fit` writes its notes beside the recipe, as NAME{SUFFIX}"
        ) from None
    except KeyError as error:
        problem = f"{error} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problem = str(error)
    raise DataError(f"{path} holds no notes of `dovetail fit` ({problem}); restore it, or remove it and plan anew")
