"""What a recipe may say: pydantic models, YAML files with a base, and dotted overrides from the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from dovetail.errors import RecipeError

Seeds = tuple[int, ...]
Channels = tuple[float, ...]
CASE = r"^[^/]+/[^/]+$"
YAML = (".yaml", ".yml")
FILE_NAME = re.compile(r"[^/\\]+")


class Part(BaseModel):
    """Base of all parts: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyPart = TypeVar("AnyPart", bound=Part)


def _specs_or_reasons(layers: Any) -> Any:
    for layer, what in layers.items() if isinstance(layers, Mapping) else ():
        if not isinstance(what, (Mapping, str)):
            told = "give a spec such as {format: tucker, rank_in: 8, rank_out: 8}, or why the layer stays dense"
            raise ValueError(f"layer {layer!r} has {what!r}; {told}")
    return layers


def _in_same_folder(name: str) -> str:
    if not FILE_NAME.fullmatch(name):
        raise ValueError("give the name of a recipe in the same folder")
    return name


RecipeName = Annotated[str, AfterValidator(_in_same_folder)]
"""Of another recipe, without its folder and ending."""

Layers = Annotated[dict[str, dict[str, Any] | str], BeforeValidator(_specs_or_reasons)]
"""Layer name or glob → a spec (`{format: tucker, rank_in: 8, rank_out: 8}`), or why the layer stays dense; later
entries win."""


class Network(Part):
    """A network by zoo name or `package.module:callable`, and the weights it starts from.

    Attributes:
        options: passed to the builder.
        weights: a file name in the data folder (never a path), or none for random weights.
        trained: instead of `weights`, a recipe that keeps its own (`weights: int8`): the network starts as that one
            ended.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    trained: RecipeName | None = None

    @property
    def random(self) -> bool:
        """Whether it starts from random weights."""
        return self.weights is None and self.trained is None

    @field_validator("weights")
    @classmethod
    def _no_path(cls, value: str | None) -> str | None:
        if value is not None and not FILE_NAME.fullmatch(value):
            raise ValueError("give a file name; the folder comes from --data or DOVETAIL_DATA")
        return value

    @field_validator("trained")
    @classmethod
    def _one_start(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("weights") is not None:
            raise ValueError("give weights or trained, not both")
        return value

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `trained` where it says nothing: as the packed networks have it that were made before it was."""
        told: dict[str, Any] = handler(self)
        return {key: value for key, value in told.items() if key != "trained" or value is not None}


class Augment(Part):
    """Random crops after padding by `crop` pixels, and random horizontal flips."""

    crop: int = Field(0, ge=0)
    flip: bool = False


class Data(Part):
    """A data set by name and how its images reach the network.

    Attributes:
        size: height and width that the images of a folder are brought to; data sets by name keep their own.
        mean, std: per channel, of images scaled to 0..1; the data set's own where left out.
        held_out: the last images of the training order, kept for every choice; a tenth, at most 5000, where left out.
    """

    name: str
    size: tuple[int, int] | None = None
    mean: Channels | None = None
    std: Channels | None = None
    batch: int = Field(128, ge=1)
    augment: Augment = Augment()
    held_out: int | None = Field(None, ge=0)


class Teacher(Part):
    """The dense network that a method distils from: Hinton et al. 2015, equation 4.

    Attributes:
        remember: when training on the CPU, keep its answers in the folder of runs, for other recipes with the same
            teacher, data and seed. A GPU asks it sooner than a file.
    """

    network: Network
    remember: bool = True
    temperature: float = Field(4.0, gt=0)
    weight: float = Field(0.5, ge=0, le=1)
    precision: Literal["f32", "bf16"] = "f32"


class Method(Part):
    """A method of `dovetail.methods` by name, its parameters, and a teacher where one is wanted.

    Attributes:
        quantize: the trained network is packed in whole numbers, calibrated as method `int8` without epochs does it;
            methods that end in whole numbers do so anyway.
    """

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    plan: Layers = Field(default_factory=dict)
    teacher: Teacher | None = None
    quantize: bool = False


class Settings(Part):
    """How training computes; one run per seed.

    Attributes:
        device: "auto" trains on a GPU where torch finds one.
        record: on a GPU, record steps and replay them where the method allows it, which is faster.
    """

    precision: Literal["f32", "bf16"] = "f32"
    channels_last: bool = True
    seeds: Seeds = Field((0,), min_length=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    checkpoint_minutes: float = Field(10.0, gt=0)
    threads: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    record: bool = True


class Aims(Part):
    """What a result should at least reach; `recipe verify` says whether it does.

    Attributes:
        bits_ratio: the dense network's bits in float32 over all of the file's tensors.
        macs_ratio: multiply-accumulates of the dense network over those of the packed one.
        points_lost: accuracy on test images, against `dense_accuracy`.
    """

    bits_ratio: float | None = Field(None, gt=0)
    macs_ratio: float | None = Field(None, gt=0)
    points_lost: float | None = Field(None, ge=0)


class Recipe(Part):
    """One file = one result that one command reproduces.

    Attributes:
        title: one line for people.
        network: what is trained.
        start: another recipe, whose committed packed network is taken for `network`: where nothing is to be trained.
        original: the dense network that ratios are against and that peers run; `network` where left out.
        control: recipe of the dense control, whose accuracy (if higher than the start's) is `dense_accuracy`.
        weights: "int8" keeps the trained weights, too, so rounded, for networks that start from them (`trained`): of
            the first seed, beside the result. Only where every layer stays as it was built: the method thin.
        aims: what the result should reach.
        case: `<network>/<variant>` of the benchmarks.
        runs: folder of checkpoints, per seed `<runs>/<recipe>-s<seed>`.
    """

    title: str = ""
    network: Network
    start: RecipeName | None = None
    original: Network | None = None
    data: Data
    method: Method
    settings: Settings = Settings()
    control: RecipeName | None = None
    weights: Literal["int8"] | None = None
    aims: Aims | None = None
    case: str | None = Field(None, pattern=CASE)
    runs: str = "runs"

    @property
    def dense(self) -> Network:
        """The network that ratios are against."""
        return self.original or self.network

    @field_validator("weights")
    @classmethod
    def _of_layers_as_built(cls, value: str | None, info: ValidationInfo) -> str | None:
        method = info.data.get("method")
        if value is not None and method is not None and method.name != "thin":
            raise ValueError(
                f"method {method.name} may leave other layers than the network was built with, and no other network "
                "could take their weights; only thin keeps them, so leave this out"
            )
        return value


def read(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe in a YAML file, its `base` merged below and `key.key=value` overrides above; `RecipeError`."""
    return check(merge(_based(path, "recipe"), parse_overrides(overrides)), str(path))


def check(data: Mapping[str, Any], where: str) -> Recipe:
    """Plain data as a recipe; `RecipeError` names the dotted key and the nearest known one."""
    return validated(Recipe, data, where)


def validated(kind: type[AnyPart], data: Any, where: str) -> AnyPart:
    """Plain data as a part, or `RecipeError`; `where` is what a person would open to mend it."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {'; '.join(_explain(e, kind) for e in error.errors())}") from None


def folder_of(name: str) -> Path:
    """A folder of such files: in the working folder, else in the checkout that this package is run from."""
    here = Path(name)
    checkout = Path(__file__).resolve().parents[3] / here
    return here if here.is_dir() or not checkout.is_dir() else checkout


def part_in(path: Path, kind: type[AnyPart], what: str) -> AnyPart:
    """The part in a YAML file, its `base` merged below; `RecipeError`, which calls the file by `what` it should be."""
    return validated(kind, _based(path, what), str(path))


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` laid over it, mappings joined key by key."""
    result = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if nested else value
    return result


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["settings.seeds=[0,1]"]` as nested plain data; values are YAML."""
    result: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise RecipeError(f"--set takes key=value, such as method.parameters.bases=4, not {override!r}")
        result = merge(result, _nested(key.split("."), plain_data(text, f"--set {key}")))
    return result


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def _based(path: Path, what: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path in above:
        raise RecipeError(f"{path}: its bases form a circle ({' → '.join(p.stem for p in (*above, path))})")
    data = plain_data(_text(path, what), str(path))
    if not isinstance(data, Mapping):
        raise RecipeError(f"{path}: a {what} is a mapping of keys")
    base = data.get("base")
    if base and not (isinstance(base, str) and FILE_NAME.fullmatch(base)):
        raise RecipeError(f"{path}: base: give the name of a {what} in the same folder (got {base!r})")
    own = {key: value for key, value in data.items() if key != "base"}
    return merge(_based(path.with_name(f"{base}.yaml"), what, (*above, path)), own) if base else own


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        hint = "; `dovetail recipe list` shows those there are" if what == "recipe" else ""
        raise RecipeError(f"there is no {what} {path}{hint}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not a text file; a {what} is YAML") from None
    except OSError as error:
        raise RecipeError(f"the {what} {path} cannot be read: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as it is everywhere else (YAML 1.1 wants 1.0e-3)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def plain_data(text: str, where: str) -> Any:
    """What a YAML text holds; `RecipeError` where it is none."""
    try:
        return yaml.load(text, _Loader)  # a safe loader: no objects
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML ({' '.join(str(error).split())})") from None


def _explain(error: Any, kind: type[Part]) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _known(path[:-1], kind)
        return f"unknown key {key!r}; {suggest(path[-1], known, prefix=path[:-1])}"
    if error["type"] == "missing":
        return f"key {key!r} is missing"
    return f"{key or kind.__name__.lower()}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def suggest(wrong: str, known: Iterable[str], prefix: Iterable[str] = ()) -> str:
    """Asks "did you mean 'method.name'?", or lists everything that is known where nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {'.'.join([*prefix, near[0]])!r}?"
    return f"known are {', '.join(known) or 'none'}"


def _known(path: Iterable[str], kind: type[Part]) -> list[str]:
    model: Any = kind
    for part in path:
        if part in model.model_fields:  # else the key of a mapping of parts
            model = _model_of(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_of(annotation: Any) -> Any:
    options = getattr(annotation, "__args__", (annotation,))
    return next((option for option in options if hasattr(option, "model_fields")), Part)
