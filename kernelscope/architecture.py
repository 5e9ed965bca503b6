r"""A model as a plain description, and the model again from its description.

A run on disk holds numbers, never code. For a model made only of the layers below, and of the modules that this package
brings, a small JSON tree of names and arguments says what the numbers are the parameters of:

    {"module": "Linear", "training": true, "dtype": "float32", "frozen": [],
     "arguments": {"in_features": 64, "out_features": 10, "bias": true}}

The names are looked up in a table in this file; nothing is imported by a name that a file gives. A description is
handed out only if the model rebuilt from it cannot be told from the original.
"""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from numbers import Integral, Number, Real
from typing import Any

import torch
from torch import Tensor, nn

from .errors import DataError, UnsafeFile
from .network import does_nothing

DEEPEST = 32  # nested Sequentials
MOST_MODULES = 10_000
MOST_PARAMETERS = 2**28  # numbers in all, where nobody says which to expect
MOST_BUFFERED = 2**24
LARGEST = 2**31  # any one integer
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16,
                                                                  torch.float16)}


# What an argument may be: each kind returns the value in the form that the constructor takes, or says what it needs.


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError("true or false")


def _integer(value: Any) -> int:
    if not isinstance(value, bool) and isinstance(value, Integral) and abs(int(value)) <= LARGEST:
        return int(value)
    raise TypeError(f"an integer of at most {LARGEST:,}")


def _number(value: Any) -> int | float:
    if not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value):
        return int(value) if isinstance(value, Integral) else float(value)
    raise TypeError("a finite number")


def _several(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def integers(value: Any) -> tuple[Any, ...]:
        if isinstance(value, list | tuple) and 1 <= len(value) <= 8:
            return tuple(kind(item) for item in value)
        raise TypeError("a list of one to eight integers")

    return integers


def _either(*kinds: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def either(value: Any) -> Any:
        wanted = []
        for kind in kinds:
            try:
                return kind(value)
            except TypeError as error:
                wanted.append(str(error))
        raise TypeError(" or ".join(wanted))

    return either


def _one_of(*names: str | None) -> Callable[[Any], Any]:
    def one_of(value: Any) -> str | None:
        if value is None or isinstance(value, str):
            if value in names:
                return value
        raise TypeError("one of " + ", ".join("null" if name is None else name for name in names))

    return one_of


_nothing = _one_of(None)
_integers = _several(_integer)
_extent = _either(_integer, _integers)
_padding = _either(_extent, _one_of("same", "valid"))
_size = _either(_integer, _nothing, _several(_either(_integer, _nothing)))

Arguments = dict[str, Callable[[Any], Any]]

_INPLACE: Arguments = {"inplace": _flag}
_DIM: Arguments = {"dim": _either(_integer, _nothing)}
_DROPOUT: Arguments = {"p": _number, "inplace": _flag}
_CONVOLUTION: Arguments = {
    "in_channels": _integer, "out_channels": _integer, "kernel_size": _extent, "stride": _extent, "padding": _padding,
    "dilation": _extent, "groups": _integer, "bias": _flag,
    "padding_mode": _one_of("zeros", "reflect", "replicate", "circular"),
}  # fmt: skip
_TRANSPOSED: Arguments = {**_CONVOLUTION, "output_padding": _extent, "padding_mode": _one_of("zeros")}
_BATCH: Arguments = {
    "num_features": _integer, "eps": _number, "momentum": _either(_number, _nothing), "affine": _flag,
    "track_running_stats": _flag,
}  # fmt: skip
_MAX_POOL: Arguments = {
    "kernel_size": _extent, "stride": _extent, "padding": _extent, "dilation": _extent, "ceil_mode": _flag,
}  # fmt: skip
_AVERAGE_POOL: Arguments = {
    "kernel_size": _extent, "stride": _extent, "padding": _extent, "ceil_mode": _flag, "count_include_pad": _flag,
}  # fmt: skip
_DIVIDED_POOL: Arguments = {**_AVERAGE_POOL, "divisor_override": _either(_integer, _nothing)}

LAYERS: dict[type[nn.Module], Arguments] = {
    nn.Identity: {},
    nn.Linear: {"in_features": _integer, "out_features": _integer, "bias": _flag},
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONVOLUTION),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _TRANSPOSED),
    nn.Embedding: {
        "num_embeddings": _integer, "embedding_dim": _integer, "padding_idx": _either(_integer, _nothing),
        "max_norm": _either(_number, _nothing), "norm_type": _number, "scale_grad_by_freq": _flag, "sparse": _flag,
    },  # fmt: skip
    nn.Flatten: {"start_dim": _integer, "end_dim": _integer},
    nn.Unflatten: {"dim": _integer, "unflattened_size": _integers},
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
                    _DROPOUT),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BATCH),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _BATCH),
    nn.LayerNorm: {"normalized_shape": _integers, "eps": _number, "elementwise_affine": _flag, "bias": _flag},
    nn.RMSNorm: {"normalized_shape": _integers, "eps": _either(_number, _nothing), "elementwise_affine": _flag},
    nn.GroupNorm: {"num_groups": _integer, "num_channels": _integer, "eps": _number, "affine": _flag},
    nn.LocalResponseNorm: {"size": _integer, "alpha": _number, "beta": _number, "k": _number},
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _MAX_POOL),
    nn.AvgPool1d: _AVERAGE_POOL,
    **dict.fromkeys((nn.AvgPool2d, nn.AvgPool3d), _DIVIDED_POOL),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), {"output_size": _size}),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), {"output_size": _size}),
    nn.PixelShuffle: {"upscale_factor": _integer},
    nn.PixelUnshuffle: {"downscale_factor": _integer},
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Hardsigmoid, nn.Hardswish), _INPLACE),
    **dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid, nn.Softmax2d), {}),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.GLU), _DIM),
    **dict.fromkeys((nn.ELU, nn.CELU), {"alpha": _number, "inplace": _flag}),
    **dict.fromkeys((nn.Hardshrink, nn.Softshrink), {"lambd": _number}),
    nn.GELU: {"approximate": _one_of("none", "tanh")},
    nn.LeakyReLU: {"negative_slope": _number, "inplace": _flag},
    nn.RReLU: {"lower": _number, "upper": _number, "inplace": _flag},
    nn.Hardtanh: {"min_val": _number, "max_val": _number, "inplace": _flag},
    nn.Threshold: {"threshold": _number, "value": _number, "inplace": _flag},
    nn.Softplus: {"beta": _number, "threshold": _number},
    nn.PReLU: {"num_parameters": _integer},
}
NAMES = {layer.__name__: layer for layer in LAYERS}


@dataclass(frozen=True)
class Own:
    """A module of this package: its home in it, its arguments, and the modules that it is made around.

    Upper rooms are named here and imported when a description of theirs is built; the names are those of this table.
    """

    home: str
    arguments: Arguments
    around: tuple[str, ...] = ()


OWN = {
    "NoiseMLP": Own("generative.networks", {"size": _integer, "width": _integer}),
    "NoiseConv": Own("generative.networks", {"side": _integer, "channels": _integer, "width": _integer}),
    "Denoiser": Own("generative.denoising.denoiser", {"spread": _number}, ("core",)),
    "Parameterised": Own("generative.denoising.parameterisations",
                         {"spread": _number, "kind": _one_of("noise", "clean", "velocity", "edm")}, ("core",)),
    "Judged": Own("generative.games.adversary", {}, ("network",)),
}

# What constructors of layers raise when arguments do not go together.
_CONSTRUCTION = (ValueError, RuntimeError, TypeError, IndexError, ArithmeticError, AssertionError)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_INTERNAL = frozenset(vars(nn.Module()))


class _Unlike(Exception):
    """The model has something that a description cannot say."""


def describe(model: nn.Module) -> dict[str, Any] | None:
    """A plain description of a model made only of standard layers, or ``None``.

    ``None`` is the answer whenever the rebuilt model could be told from this one: a forward of one's own, a layer that
    is not in the table, hooks, parametrizations, tied parameters, attributes changed to what no constructor gives.
    The model, its mode and the random state are left as they were.

    Args:
        model: Any module.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 10), nn.ReLU())
        >>> describe(model)["children"][1]
        ['1', {'module': 'ReLU', 'training': True, 'dtype': None, 'frozen': [], 'arguments': {'inplace': False}}]
        >>> rebuild(describe(model))
        Sequential(
          (0): Linear(in_features=64, out_features=10, bias=True)
          (1): ReLU()
        )
    """
    try:
        spec = _node(model, 0)
        _compare(model, _build(spec, "meta"))
    except (_Unlike, UnsafeFile):
        return None
    return spec


def rebuild(
    spec: Mapping[str, Any],
    parameters: Mapping[str, Sequence[int]] | None = None,
    buffers: Mapping[str, Sequence[int]] | None = None,
) -> nn.Module:
    """The model that a description describes, on the CPU, with the values that its layers start with under seed 0.

    The description may come from anywhere: names outside the table, arguments of a wrong kind and shapes that were not
    expected are refused before any memory is taken. The random state is left as it was.

    Args:
        spec: What :func:`describe` gave, or what JSON made of it.
        parameters: The shape of each parameter, by name, if it is known what to expect.
        buffers: The shape of each buffer, by name, likewise.

    Raises:
        UnsafeFile: The description is not one of this version, or does not fit ``parameters`` or ``buffers``.
    """
    plan = _build(spec, "meta")
    _expect("parameters", dict(plan.named_parameters(remove_duplicate=False)), parameters, MOST_PARAMETERS)
    _expect("buffers", dict(plan.named_buffers(remove_duplicate=False)), buffers, MOST_BUFFERED)
    return _build(spec, "cpu")


# From a model to its description.


def _node(module: nn.Module | None, depth: int) -> dict[str, Any]:
    if depth > DEEPEST:
        raise _Unlike
    if type(module) is nn.Sequential:
        children = [[name, _node(child, depth + 1)] for name, child in module._modules.items()]
        return {"module": "Sequential", "training": module.training, "children": children}
    own = OWN.get(type(module).__name__)
    if own is not None and type(module).__module__ == f"{__package__}.{own.home}":
        table, around = own.arguments, own.around
    elif module is not None and type(module) in LAYERS:
        table, around = LAYERS[type(module)], ()
    else:
        raise _Unlike
    assert module is not None
    arguments = {}
    for name, kind in table.items():
        value = getattr(module, name, ...)
        try:
            arguments[name] = _plain(kind(value is not None if name == "bias" else value))
        except TypeError:
            raise _Unlike from None
    dtypes = [tensor.dtype for tensor in _tensors(module) if tensor.is_floating_point()] if not around else []
    frozen = [name for name, value in module.named_parameters(recurse=not around) if not value.requires_grad]
    inner = {"children": [[name, _node(getattr(module, name), depth + 1)] for name in around]} if around else {}
    return {
        "module": type(module).__name__,
        "training": module.training,
        "dtype": str(dtypes[0]).removeprefix("torch.") if dtypes else None,
        "frozen": frozen,
        "arguments": arguments,
        **inner,
    }


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for _, parameter in module.named_parameters(remove_duplicate=False):
        yield parameter
    for _, buffer in module.named_buffers(remove_duplicate=False):
        yield buffer


def _compare(model: nn.Module, rebuilt: nn.Module) -> None:
    """Raises _Unlike if anything that a forward or a training step could see is different."""
    if repr(model) != repr(rebuilt) or _inventory(model) != _inventory(rebuilt):
        raise _Unlike
    storages = [tensor.untyped_storage()._cdata for tensor in _tensors(model)]
    if len(set(storages)) < len(storages):
        raise _Unlike
    pairs = zip(model.named_modules(remove_duplicate=False), rebuilt.named_modules(remove_duplicate=False), strict=True)
    for (name, module), (other_name, other) in pairs:
        mine, theirs = vars(module), vars(other)
        hooked = any(not does_nothing(hook) for hooks in _HOOKS for hook in mine[hooks].values())
        changed = any(not _equal(mine.get(key, ...), theirs[key]) for key in theirs.keys() - _INTERNAL)
        overridden = any(callable(mine[key]) for key in mine.keys() - theirs.keys())
        mode = (name, module.training, module._non_persistent_buffers_set)
        if hooked or changed or overridden or mode != (other_name, other.training, other._non_persistent_buffers_set):
            raise _Unlike


def _inventory(model: nn.Module) -> list[tuple[Any, ...]]:
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    return [(name, type(p), p.shape, p.dtype, p.layout, p.requires_grad) for name, p in parameters] + [
        (name, b.shape, b.dtype, b.layout, b.requires_grad) for name, b in buffers
    ]


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, Number | str | tuple | list | None) and bool(a == b)


# From a description to its model.


def _build(spec: Any, device: str) -> nn.Module:
    # A layer draws its first values: the user's random state is not for us to spend.
    with torch.random.fork_rng(devices=[]), torch.device(device), _without_warnings():
        torch.manual_seed(0)
        return _module(spec, "the model", 0, [MOST_MODULES])


@contextmanager
def _without_warnings() -> Iterator[None]:
    # The user has seen what the constructors warn about when the model was first made.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _module(spec: Any, where: str, depth: int, left: list[int]) -> nn.Module:
    left[0] -= 1
    if depth > DEEPEST or left[0] < 0:
        raise _refusal(where, f"it nests deeper than {DEEPEST} or has more than {MOST_MODULES:,} modules")
    name = spec.get("module") if isinstance(spec, Mapping) else None
    if name == "Sequential":
        return _sequential(_keys(spec, where, "module", "training", "children"), where, depth, left)
    own = OWN.get(name) if isinstance(name, str) else None
    layer: Any = NAMES.get(name) if isinstance(name, str) else None
    if layer is None and own is None:
        raise _refusal(where, f"{_short(name)} is not the name of a layer that can be rebuilt")
    around = () if own is None else own.around
    _keys(spec, where, "module", "training", "dtype", "frozen", "arguments", *(["children"] if around else []))
    table = LAYERS[layer] if own is None else own.arguments
    given = _keys(spec["arguments"], f"the arguments of {where}", *table)
    arguments: dict[str, Any] = {}
    for key, kind in table.items():
        try:
            arguments[key] = kind(given[key])
        except TypeError as error:
            raise _refusal(where, f"{key} of {name} must be {error}, and {_short(given[key])} was found") from None
    dtype, frozen = spec["dtype"], spec["frozen"]
    if dtype is not None and not (isinstance(dtype, str) and dtype in DTYPES):
        raise _refusal(where, f"dtype must be null or one of {', '.join(DTYPES)}, and {_short(dtype)} was found")
    if own is not None:
        layer = getattr(import_module(f".{own.home}", __package__), str(name))
    inner = _around(spec, around, where, depth, left)
    try:
        module = layer(**inner, **arguments)
    except (*_CONSTRUCTION, DataError) as error:
        raise _refusal(where, f"{name} does not take these arguments ({_short(str(error))})") from None
    if dtype is not None:
        module.to(DTYPES[dtype])
    owned = dict(module.named_parameters(recurse=not around))
    if not (isinstance(frozen, list) and all(isinstance(key, str) and key in owned for key in frozen)):
        raise _refusal(where, f"frozen must list parameters of {name}, and {_short(frozen)} was found")
    for key in frozen:
        owned[key].requires_grad_(False)
    if own is not None and not around and isinstance(spec["training"], bool):
        # What a module of this package is made of follows its mode.
        module.train(spec["training"])
    return _in_mode(module, spec, where)


def _around(spec: Mapping[str, Any], names: tuple[str, ...], where: str, depth: int, left: list[int]) -> dict[str, Any]:
    """The modules that a module of this package is made around, by name."""
    children = spec["children"] if names else []
    if not isinstance(children, list) or [child[0] if isinstance(child, list) and len(child) == 2 else None
                                          for child in children] != list(names):
        raise _refusal(where, f"its modules must be {', '.join(names)}, and {_short(children)} was found")
    return {name: _module(inner, f"{name} of {where}", depth + 1, left) for name, inner in children}


def _sequential(spec: Mapping[str, Any], where: str, depth: int, left: list[int]) -> nn.Module:
    module, children = nn.Sequential(), spec["children"]
    if not isinstance(children, list) or len(children) > MOST_MODULES:
        raise _refusal(where, f"children must be a list, and {_short(children)} was found")
    for child in children:
        if not (isinstance(child, list) and len(child) == 2 and isinstance(child[0], str) and len(child[0]) <= 200):
            raise _refusal(where, f"a child must be a pair of a name and a description, and {_short(child)} was found")
        name, inner = child
        if name in module._modules:
            raise _refusal(where, f"two layers are called {_short(name)}")
        built = _module(inner, f"layer {_short(name)}", depth + 1, left)
        try:
            module.add_module(name, built)
        except KeyError:
            raise _refusal(where, f"{_short(name)} cannot be the name of a layer") from None
    return _in_mode(module, spec, where)


def _in_mode(module: nn.Module, spec: Mapping[str, Any], where: str) -> nn.Module:
    if not isinstance(spec["training"], bool):
        raise _refusal(where, f"training must be true or false, and {_short(spec['training'])} was found")
    # Of this module alone: each layer says its own mode.
    module.training = spec["training"]
    return module


def _keys(spec: Any, where: str, *names: str) -> Mapping[str, Any]:
    if not isinstance(spec, Mapping) or set(spec) != set(names):
        found = sorted(map(str, spec)) if isinstance(spec, Mapping) else spec
        raise _refusal(where, f"the entries {', '.join(names) or '(none)'} were needed, and {_short(found)} was found")
    return spec


def _expect(what: str, built: dict[str, Tensor], expected: Mapping[str, Sequence[int]] | None, most: int) -> None:
    if expected is None:
        total = sum(tensor.numel() for tensor in built.values())
        if total > most:
            raise _refusal("the model", f"its {what} are {total:,} numbers; without a list of the shapes to expect, "
                                        f"{most:,} are allowed")
        return
    for name in [*built, *expected]:
        here = tuple(built[name].shape) if name in built else None
        there = tuple(expected[name]) if name in expected else None
        if here != there:
            raise _refusal("the model", f"its {what} are not those expected: {_short(name)} has the shape "
                                        f"{here or 'of nothing'} in the description and {there} elsewhere")


def _short(value: Any) -> str:
    return reprlib.repr(value)  # what a file gives may be of any length and depth


def _refusal(where: str, problem: str) -> UnsafeFile:
    return UnsafeFile(
        f"The description of the model cannot be used: at {where}, {problem}. The file was changed, or another version "
        "wrote it. Nothing was built; give the model itself when you open the run."
    )
