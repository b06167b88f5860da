"""From the names in a recipe to objects: networks, data, loaders, methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.cli import recipes
from dovetail.cli.parameters import checked
from dovetail.cli.schema import Data, Method, Network, Recipe, Teacher, suggest
from dovetail.engine.native import cores
from dovetail.errors import DataError, RecipeError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor, nn

    from dovetail.methods.base import Method as TrainingMethod
    from dovetail.training.data import Loader
    from dovetail.training.settings import Settings
    from dovetail.zoo.data import DataSets


EVALUATED_AT_ONCE = 250
ANSWERS = "teachers.sqlite"


@dataclass(frozen=True)
class Sets:
    """The data of a recipe, opened: what to train on, what to choose by, and what to measure on once.

    Attributes:
        held_out: None where nothing is held out.
        calibration: the training images as they are.
        mean, std: what the images go through.
    """

    name: str
    train: Loader
    held_out: Loader | None
    test: Loader
    calibration: Loader
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def example(self) -> Tensor:
        """One normalised training image, `(1, C, H, W)`, contiguous."""
        images, _ = next(iter(self.calibration))
        return images[:1].contiguous()


def open_sets(data: Data, network: str, root: Path | None, seed: int = 0) -> Sets:
    """Open a data set, normalised as `network` wants it; order and augmentation of the training follow from `seed`."""
    from dovetail.training.data import Augment, Loader, split

    opened = _open(data, root)
    mean, std = _normalisation(network, data, opened.name)
    augment = Augment(data.augment.crop, data.augment.flip)
    count = held_out_of(data, len(opened.train.images))
    train, held_out = split(opened.train, count) if count else (opened.train, None)
    plain: dict[str, Any] = {"mean": mean, "std": std}
    return Sets(
        name=opened.name,
        train=Loader(train, data.batch, augment=augment, shuffle=True, seed=seed, **plain),
        held_out=None if held_out is None else Loader(held_out, EVALUATED_AT_ONCE, **plain),
        test=Loader(opened.test, EVALUATED_AT_ONCE, **plain),
        calibration=Loader(train, EVALUATED_AT_ONCE, **plain),
        mean=mean,
        std=std,
        classes=tuple(opened.class_names),
    )


def held_out_of(data: Data, images: int) -> int:
    """How many of so many training images are kept for choices; `RecipeError` where none would be left to train on."""
    count = min(5000, max(images // 10, 1)) if data.held_out is None else data.held_out
    if count >= images:
        raise RecipeError(
            f"data.held_out: {count} of the {images} training images of {data.name} leave none to train on; give fewer"
        )
    return count


def build_network(network: Network, root: Path | None) -> nn.Module:
    """The network with its weights; without weights it is freshly initialised.

    Weights that a recipe has trained are looked for among all recipes, unless the network knows their file already.
    """
    from dovetail import zoo

    model = zoo.build(network.name, **network.options)
    if network.weights is None:
        network = recipes.located(network, recipes.folder())
    if network.weights is not None:
        zoo.load_weights(model, weights_file(network.weights, root))
    return model


def fitted(network: Network, sets: Sets) -> Network:
    """A zoo network with the options (`in_channels`, `classes`, `size`) that suit the data, unless it says its own."""
    from dovetail import zoo

    if ":" in network.name:
        return network
    test, known = sets.test.data, zoo.registry.find(network.name).options()
    suits = {"in_channels": test.images.shape[3], "classes": test.classes, "size": list(test.images.shape[1:3])}
    options = {name: value for name, value in suits.items() if name in known} | network.options
    return network.model_copy(update={"options": options})


def weights_file(name: str, root: Path | None) -> Path:
    """A path that exists, a file of the data folder, or what the zoo calls by this name."""
    from dovetail import zoo

    if Path(name).is_file():
        return Path(name)
    if "/" in name:
        raise DataError(f"there are no weights {name}; give an existing .safetensors file")
    if Path(name).suffix == ".safetensors":
        return zoo.data_root(root) / name
    return zoo.weights_path(name, root)


def build_method(method: Method, root: Path | None, sets: Sets, runs: Path | None = None) -> TrainingMethod:
    """The method with its parameters; its teacher's answers, where it has one, are kept in `runs`."""
    from dovetail.methods import METHODS

    if method.name not in METHODS:
        raise RecipeError(f"method.name: there is no method {method.name!r}; {suggest(method.name, METHODS)}")
    built = _called(METHODS[method.name], method.parameters)
    return built if method.teacher is None else _distilled(built, method.teacher, root, sets, runs)


def settings(recipe: Recipe, seed: int, run: Path | None) -> Settings:
    """The training room's settings for one seed; `RecipeError` for more threads than there are cores."""
    from dovetail.training.settings import Settings

    if (recipe.settings.threads or 1) > cores():
        raise RecipeError(
            f"settings.threads: {recipe.settings.threads} threads on {cores()} cores; give 1 to {cores()}, or null"
        )
    names = ("precision", "channels_last", "label_smoothing", "checkpoint_minutes", "threads", "record")
    return Settings(seed=seed, run=run, **{name: getattr(recipe.settings, name) for name in names})


def device_for(recipe: Recipe) -> str:
    """Where a recipe trains; `RecipeError` for a GPU that torch does not find."""
    import torch

    wanted, found = recipe.settings.device, torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise RecipeError("settings.device: cuda, but torch finds no GPU here; give cpu, or install torch with CUDA")
    return "cuda" if found and wanted != "cpu" else "cpu"


def require_fit(model: nn.Module, name: str, sets: Sets) -> None:
    """`RecipeError` where the network does not take the images, or has fewer outputs than there are classes."""
    answer = answer_to(model, name, sets.example(), f"the images of {sets.name}")
    shape, classes = tuple(getattr(answer, "shape", ())), sets.test.data.classes
    if len(shape) != 2 or shape[0] != 1 or shape[1] < classes:
        got = f"answers of shape {shape}" if shape else f"a {type(answer).__name__}"
        raise RecipeError(
            f"network {name!r} gives {got} for one image of {sets.name}; it must give (1, {classes}) or more: a score "
            "for every class"
        )


def answer_to(model: nn.Module, name: str, example: Tensor, what: str) -> Any:
    """What the network gives for one input, or `RecipeError` where it does not take `what`."""
    import torch

    from dovetail.training.metrics import evaluating

    try:
        with evaluating(model), torch.no_grad():
            return model(example)
    except Exception as error:  # whatever the user's network does with images that it was not made for
        told = f"{type(error).__name__}: {error}"
        raise RecipeError(f"network {name!r} does not take {what}, {tuple(example.shape)}: {told}") from error


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 `(N, H, W, C)` to float32 `(N, C, H, W)`, by the arithmetic of the loader that the network trained with."""
    import numpy as np

    from dovetail.training.data import Images, Loader

    unlabelled = Images(images, np.zeros(len(images), np.int64), classes=1)
    normalised, _ = next(iter(Loader(unlabelled, len(images), mean=mean, std=std)))
    return np.ascontiguousarray(normalised.numpy())


def image_of(shape: str) -> Tensor:
    """One image of zeros, from a shape such as `3x32x32`."""
    import torch

    try:
        sizes = [int(part) for part in shape.split("x")]
    except ValueError:
        raise RecipeError(f"--input {shape!r}: write the shape of one image as 3x32x32") from None
    if len(sizes) not in (1, 2, 3) or min(sizes) < 1:
        raise RecipeError(f"--input {shape!r}: write the shape of one image as 3x32x32")
    return torch.zeros(1, *sizes)


def _open(data: Data, root: Path | None) -> DataSets:
    from dovetail.zoo.data import known, open_data

    if data.size is None:
        return open_data(data.name, root)
    if known(data.name) is not None:
        raise RecipeError(f"data.size: the images of {data.name} have a size of their own; leave it out")
    return open_data(data.name, root, size=data.size)


def _normalisation(network: str, data: Data, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from dovetail import zoo

    own = zoo.normalisation(network, name)
    return tuple(data.mean or own.mean), tuple(data.std or own.std)


def _called(kind: type[TrainingMethod], parameters: Mapping[str, Any]) -> TrainingMethod:
    given = checked(kind, parameters)
    try:
        return kind(**given)
    except SpecError as error:
        raise RecipeError(f"method.parameters: {error}") from None


def _distilled(
    method: TrainingMethod, teacher: Teacher, root: Path | None, sets: Sets, runs: Path | None
) -> TrainingMethod:
    from dovetail.methods import Distill

    model = build_network(fitted(teacher.network, sets), root)
    options = teacher.model_dump(exclude={"network", "remember"})
    return Distill(method, model, answers=runs / ANSWERS if runs is not None and teacher.remember else None, **options)
