"""From a torch model to a Program: `torch.export` traces it, `rules.py` lowers it, `fuse.py` tidies it up.

This is the only file of the room that sees torch.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from dovetail.errors import DovetailError, InputError, ProgramError, UnsupportedOp
from dovetail.formats.base import Packed
from dovetail.formats.layer import FormatLayer, appear
from dovetail.formats.recurrent import Recurrent, Step
from dovetail.program.build import Builder, Call, Const, Var
from dovetail.program.check import check
from dovetail.program.fuse import fuse
from dovetail.program.program import BATCH, TIME, Dim, Graph, Program, Shape
from dovetail.program.rules import RULES
from dovetail.program.rules.table import Rule

_FOREIGN: Final = (Path(torch.__file__).parent, Path(__file__).parent, Path(__file__).parent.parent / "formats")
_PYTHON: Final = Path(logging.__file__).parent.parent
_FIXED: Final = re.compile(r"set_replacement \w+ = \d+ ")  # a size became one number
_IN_PLACE: Final = re.compile(r"_(?=(_\d+)?$)")  # of relu_ and relu__1
_SILENT: Final = ("sym_size", "sym_constrain", "_assert", "_guards")
_FRESH: Final = {"conv2d", "linear", "batch_norm", "add", "mul", "matmul"}  # what they make is nobody else's memory


def lower(
    model: nn.Module, example: Any, *, metadata: Mapping[str, Any] | None = None, time: int | None = None
) -> Program:
    """The Program of a model, in evaluation mode.

    The model itself is not changed: a float32 copy on the host is traced.

    Args:
        model: any module made of the operations in `rules.RULES`.
        example: an input, or a tuple of inputs, that the model takes; all but the leading (batch) size is fixed by it.
        metadata: plain data that travels with the file.
        time: axis of every input along which its length may vary, too, where the model is made of recurrent layers
            (`formats.recurrent`) and of ops that treat all time steps alike; None fixes the length by the example.

    Raises:
        UnsupportedOp: names the operation, the layer and the line of the model.
        ProgramError: a weight has NaN or Inf.
    """
    examples = example_inputs(example)
    copied = evaluation_copy(model)
    traced = _trace(copied, examples, time)
    builder = Builder(lambda name: _pack(copied, name), lambda b, name, steps: _body(copied, b, name, steps))
    outputs = _Lowering(builder, traced, time=time).run()
    program = fuse(builder.program(outputs, dict(metadata or {})))
    check(program)
    return program


class _Lowering:
    """One walk over the traced graph; `values` maps each of its nodes to what the Program has for it.

    `inside` is the name of the recurrent layer of which one step is lowered; it begins all names of the walk.
    """

    def __init__(self, builder: Builder, traced: Any, *, time: int | None = None, inside: str | None = None) -> None:
        self.builder, self.time, self.inside = builder, time, inside
        self.graph: fx.Graph = traced.graph
        self.titles = {node.name for node in self.graph.nodes}
        stored = _constants(traced)
        self.constants = {placeholder: tensor for placeholder, (_, tensor) in stored.items()}
        self.names = {tensor_key(tensor): self.full(name) for name, tensor in reversed(tuple(stored.values()))}
        self.symbols: dict[str, str] = {}
        self.values: dict[fx.Node, Any] = {}

    def run(self) -> tuple[str, ...]:
        """Lower every node; the names of the outputs."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op == "get_attr":
                raise UnsupportedOp(
                    f"the model branches or loops by a torch operation that takes graphs ({node.target}, as torch.cond "
                    "does); only what is computed for every input alike can be lowered"
                )
            elif node.op == "output":
                return tuple(self.output(value) for value in _flat(node.args[0]))
        raise ProgramError("the traced model has no output")

    def placeholder(self, node: fx.Node) -> Any:
        """A parameter (a tensor) or an input."""
        if node.name in self.constants:
            return self.constants[node.name]
        first = node.meta["val"].shape[0]
        if isinstance(first, int):
            raise fixed_batch(f"input {node.name!r} is taken with exactly {first} images")
        self.symbols.setdefault(str(first), BATCH)
        if self.time is not None:
            length = node.meta["val"].shape[self.time]
            if isinstance(length, int):
                raise UnsupportedOp(f"the model takes its input {node.name!r} with exactly {length} time steps")
            self.symbols.setdefault(str(length), TIME)
        return self.builder.input(self.own(node.name), self.shape(node))

    def call(self, node: fx.Node) -> Any:
        """The result of one operation: folded if it does not depend on the input, else by its rule."""
        if _is_number(node.meta.get("val")):
            return None
        if _silent(node):
            return None
        name = _op_name(node)
        if name == "getitem":
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        inputs = [self.values[n] for n in node.all_input_nodes]
        if all(isinstance(value, (Tensor, tuple, list)) and _constant(value) for value in inputs):
            return self.fold(node)
        return self.lower(node, name)

    def fold(self, node: fx.Node) -> Any:
        """Evaluate an operation on constants (masked, normalised or parametrised weights, position tables)."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        kwargs = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
        with torch.no_grad():
            value = node.target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(value, Tensor):
            self.names.setdefault(tensor_key(value), self.full(_weight_name(node)))
        return value

    def lower(self, node: fx.Node, name: str) -> Any:
        """Call the rule and compare its shape with torch's."""
        layer = self.full(_layer(node))
        self.builder.at(Call(self.own(self.title(node)), name, layer, _source(node), self.shape(node)))
        if name not in RULES:
            self.builder.call.refuse(
                "it has no rule", "rewrite it with the supported ops, or keep it outside the model"
            )
        arguments = {key: self.argument(value) for key, value in _bind(node).items()}
        result = self.apply(RULES[name], arguments)
        made = result[0] if isinstance(result, tuple) else result
        if isinstance(made, Var) and made.shape != self.builder.call.shape:
            self.builder.call.refuse(
                f"its result {self.builder.call.shape} was lowered as {made.shape}", "please report it"
            )
        return result

    def apply(self, rule: Rule, arguments: dict[str, Any]) -> Any:
        """Call a rule; one that trips over its arguments refuses them."""
        try:
            return rule(self.builder, **arguments)
        except (AttributeError, TypeError, ValueError) as error:
            kinds = ", ".join(f"{key}: {type(value).__name__}" for key, value in arguments.items())
            self.builder.call.refuse(f"its rule does not know such arguments ({kinds}: {error})", "rewrite this line")

    def argument(self, value: Any) -> Any:
        """What a rule sees: `Var`, `Const`, dimensions, plain values."""
        if isinstance(value, fx.Node):
            known = self.values[value]
            return self.dim(value.meta["val"]) if _is_number(value.meta.get("val")) else self.constant(known)
        if isinstance(value, (list, tuple)):
            return [self.argument(item) for item in value]
        return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value

    def constant(self, value: Any) -> Any:
        """A torch tensor as a named `Const`; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        return Const(self.names.get(tensor_key(value), "constant"), value.detach().numpy())

    def shape(self, node: fx.Node) -> Shape:
        """The (first) result's shape."""
        value = node.meta.get("val")
        first = value[0] if isinstance(value, (list, tuple)) else value
        return tuple(self.dim(d) for d in first.shape) if isinstance(first, Tensor) else ()

    def dim(self, size: Any) -> Dim:
        """A number, `"batch"` or `"time"`, or a multiple of one of them."""
        if isinstance(size, (int, float)):
            return int(size)
        factor, rest = size.node.expr.as_coeff_Mul()
        name = self.symbols.get(str(rest))
        if name is None or not factor.is_Integer:
            raise UnsupportedOp(
                f"the model makes a tensor with a dimension of {size.node.expr}; only the batch and its multiples are "
                "known: treat all images alike"
            )
        return name if factor == 1 else f"{int(factor)}*{name}"

    def title(self, node: fx.Node) -> str:
        """Its name; where it writes into its operand and the name is free, that of the operation that does not."""
        plain = _IN_PLACE.sub("", node.name) if _in_place(node) else node.name
        return node.name if plain in self.titles else plain

    def own(self, name: str) -> str:
        """A name of the traced graph, in the Program."""
        return f"{self.inside}.{name}" if self.inside else name

    def full(self, name: str) -> str:
        """The name in the model of a module or parameter of what is traced."""
        if self.inside is None or not (name + ".").startswith("layer."):
            return name
        return (self.inside + name.removeprefix("layer")).removeprefix(".")

    def output(self, node: Any) -> str:
        """The name of an output tensor."""
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(value, Var):
            raise UnsupportedOp("an output of the model does not depend on its input; return only what it computes")
        return value.name


def tensor_key(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two views of the same numbers."""
    return (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def example_inputs(example: Any) -> tuple[Tensor, ...]:
    """The inputs on the host, with at least two images each: a batch of one would be taken for a fixed size."""
    given = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    if not given or not all(isinstance(x, Tensor) and x.ndim >= 2 and x.is_floating_point() for x in given):
        raise InputError("give an example input: a float tensor, or a tuple of them, with the batch as its first axis")
    if any(x.shape[0] < 1 for x in given):
        raise InputError("the example input is empty; give at least one image")
    return tuple((torch.cat([x, x]) if x.shape[0] == 1 else x).detach().to("cpu", torch.float32) for x in given)


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A float32 copy on the host, in evaluation mode, whose format layers know their names."""
    copied = copy.deepcopy(model).to("cpu").float().eval()
    for name, module in copied.named_modules():
        if isinstance(module, FormatLayer | Recurrent):
            module.name = name
    return copied


def dynamic_batch(model: nn.Module, examples: tuple[Tensor, ...], time: int | None = None) -> Any:
    """`dynamic_shapes` for `torch.export`: the first axis of every input is the batch, `time` (if any) the time.

    Raises:
        InputError: an example has no such axis, or is one step long, which would be taken for a fixed length.
    """
    axes = {0: torch.export.Dim(BATCH, min=1)}
    if time is not None:
        for example in examples:
            if not 0 < time < example.ndim or example.shape[time] < 2:
                shape = tuple(example.shape)
                raise InputError(f"an example of shape {shape} has no {TIME} axis {time} of at least two steps")
        axes[time] = torch.export.Dim(TIME, min=1)
    shapes = tuple(axes for _ in examples)
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    return (shapes,) if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL] else shapes


def _body(model: nn.Module, builder: Builder, name: str, steps: Sequence[Shape]) -> Graph:
    """What the recurrent layer called `name` does at one time step, its states behind the steps."""
    layer = model.get_submodule(name)
    assert isinstance(layer, Recurrent)
    inputs = [torch.zeros(2, *map(int, shape[1:])) for shape in steps]
    inputs += [torch.zeros(2, width) for width in layer.widths]
    traced = _trace(Step(layer, len(steps)), tuple(inputs))
    within = builder.inside()
    return within.graph(_Lowering(within, traced, inside=name).run())


def _trace(model: nn.Module, examples: tuple[Tensor, ...], time: int | None = None) -> Any:
    shapes = dynamic_batch(model, examples, time)
    with watched() as watch, appear("opaque"), torch.no_grad():
        try:
            traced = torch.export.export(model, examples, dynamic_shapes=shapes, strict=False)
            return traced if all(map(_direct, traced.graph.nodes)) else traced.run_decompositions({})
        except DovetailError:
            raise
        except Exception as error:
            raise explain(error, watch.line) from error


def _direct(node: fx.Node) -> bool:
    """Whether a node can be lowered as the model wrote it: tracing again, without writes into operands and in simpler
    operations, takes longer than the first trace.

    Writing into an operand is harmless where nothing else reads what is overwritten.
    """
    if node.op != "call_function" or _is_number(node.meta.get("val")) or _silent(node) or _op_name(node) == "getitem":
        return True
    if _op_name(node) not in RULES:
        return False
    operand = node.args[0]
    own = isinstance(operand, fx.Node) and len(operand.users) == 1 and _op_name(operand) in _FRESH
    return not node.target._schema.is_mutable or (_in_place(node) and own)  # type: ignore[union-attr]


class Watch(logging.Handler):
    """Listens to torch's reasoning about sizes; `line` is the user's line that fixed one, if any did."""

    def __init__(self) -> None:
        super().__init__()
        self.line = ""
        self.depth = len(traceback.extract_stack())

    def emit(self, record: logging.LogRecord) -> None:
        """Called in the middle of the trace: the user's line is on the stack, above the caller of `lower`."""
        if not self.line and _FIXED.match(record.getMessage()):
            model = [frame for frame in traceback.extract_stack()[self.depth :] if not _foreign(frame.filename)]
            self.line = f"{model[-1].filename}:{model[-1].lineno}" if model else ""


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """A `Watch` during a trace, which otherwise stays silent: torch warns about its own internals."""
    logger, watch = logging.getLogger("torch.fx.experimental.symbolic_shapes"), Watch()
    before = (logger.handlers, logger.level, logger.propagate)
    logger.handlers, logger.propagate = [watch], False
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield watch
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)


def explain(error: Exception, fixed_at: str = "") -> UnsupportedOp:
    """What torch.export could not trace, in a paragraph; `fixed_at` is the line that fixed the batch size."""
    text = " ".join(str(error).split()).partition(" For more information")[0][:300]
    line = fixed_at or _user_line(error)
    if "onstraint" in text or "specializ" in text or "inferred to be a constant" in text:
        return fixed_batch(f"at {line}" if line else text)
    where = f" at {line}" if line else ""
    return UnsupportedOp(
        f"torch.export cannot trace the model{where}: {type(error).__name__}: {text}; branches and loops must not "
        "depend on the values of tensors"
    )


def fixed_batch(where: str) -> UnsupportedOp:
    """The error for a model that works for one batch size only."""
    return UnsupportedOp(
        f"the model fixes its batch size ({where}); use x.shape[0] or -1 in reshapes instead of a number, "
        "and no branch on the batch size"
    )


def _user_line(error: BaseException) -> str:
    """The innermost line of the traceback that is neither torch's nor ours."""
    found, trace = "", error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if not _foreign(path):
            found = f"{path}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _foreign(path: str) -> bool:
    """Whether a source file is Python's, torch's or ours, and so no line of the model."""
    standard = Path(path).is_relative_to(_PYTHON) and "site-packages" not in path
    return path.startswith("<") or standard or any(Path(path).is_relative_to(folder) for folder in _FOREIGN)


def _pack(model: nn.Module, name: str) -> tuple[Packed, int]:
    layer: Any = model.get_submodule(name)
    return layer.pack(), getattr(layer, "groups", 1)


def _constants(traced: Any) -> dict[str, tuple[str, Tensor]]:
    """Placeholder → name and value of the parameter, buffer or constant behind it."""
    signature, held = traced.graph_signature, {**traced.constants, **traced.state_dict}
    tables = (signature.inputs_to_parameters, signature.inputs_to_buffers, signature.inputs_to_lifted_tensor_constants)
    return {placeholder: (name, held[name].detach()) for table in tables for placeholder, name in table.items()}


def _bind(node: fx.Node) -> dict[str, Any]:
    """Arguments by the names of the operation's schema, defaults included; `input` and `self` are called `x`."""
    schema = node.target._schema  # type: ignore[union-attr]
    values = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    values |= dict(zip((a.name for a in schema.arguments), node.args))
    values |= node.kwargs
    return {"x" if name in ("self", "input") else name: value for name, value in values.items()}


def _op_name(node: fx.Node) -> str:
    """The operation; where it writes into its operand, the one that does not."""
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None:
        return getattr(node.target, "__name__", str(node.target))
    return str(packet).rpartition(".")[2].removesuffix("_" if _in_place(node) else "")


def _in_place(node: fx.Node) -> bool:
    """Whether it writes into its first operand, and returns that."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and schema.name.endswith("_")


def _silent(node: fx.Node) -> bool:
    """Whether it only checks, or asks for sizes."""
    return _op_name(node).startswith(_SILENT)


def _layer(node: fx.Node) -> str:
    """The name of the innermost module that made the node."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(tuple(stack.values())), ("",))[0])


def _weight_name(node: fx.Node) -> str:
    return f"{layer}.{node.name}" if (layer := _layer(node)) else node.name


def _source(node: fx.Node) -> str:
    """The innermost line that is the user's, as `file:line`."""
    found = ""
    for line in (node.meta.get("stack_trace") or "").splitlines():
        parts = line.strip().split('"')
        if len(parts) == 3 and parts[0] == "File " and not _foreign(parts[1]):
            found = f"{parts[1]}:{parts[2].split(',')[1].removeprefix(' line ')}"
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, bool, torch.SymInt, torch.SymBool, torch.SymFloat))


def _constant(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and all(_constant(v) for v in value))


def _flat(outputs: Any) -> Sequence[Any]:
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]
