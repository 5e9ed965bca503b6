r"""Watching the parameters of a network at work.

Every function of torch that meets a parameter is seen, wherever it is called: in a layer, in attention, in the user's
own code. Where its rule is known, its input is kept and its output becomes a place at which gradients are asked for;
where it is not, the parameter is said to be used elsewhere, and its gradient is found another way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from .recurrent import readable, written_out
from .rules import RULES, Call, Rule

#: Functions of torch by which a network may treat samples by what they, or those beside them, hold: it sorts, selects
#: or branches.
BY_CONTENT = frozenset((
    "argsort", "sort", "msort", "topk", "unique", "unique_consecutive", "searchsorted", "bucketize", "nonzero", "where",
    "argwhere", "masked_select", "masked_scatter", "masked_scatter_", "index_select", "index_add", "index_add_",
    "index_put", "index_put_", "index_copy", "index_copy_", "gather", "scatter", "scatter_", "scatter_add",
    "scatter_add_", "take", "take_along_dim", "__bool__", "__int__", "__float__", "__index__", "__contains__", "item",
    "tolist", "numpy", "__array__", "_pack_padded_sequence", "randperm", "flip", "roll",
))


@dataclass(frozen=True)
class Piece:
    """A parameter or a part of it: the entries from ``start`` to ``stop``; ``turned`` where rows are columns."""

    name: str
    start: int
    stop: int
    turned: bool = False


@dataclass(eq=False)
class Use:
    """One call in which parameters take part."""

    rule: Rule
    call: Call
    pieces: dict[str, Piece]
    output: Tensor
    edge: GradientEdge
    version: int

    @property
    def sign(self) -> tuple[Any, ...]:
        """What must be the same when the network is called again."""
        return self.rule, tuple(sorted(self.pieces.items(), key=lambda item: item[0]))


@dataclass(frozen=True)
class Habits:
    """What was learned about a network's uses of its parameters.

    Attributes:
        elsewhere: The parameters whose gradients are not found from uses.
        spread: The uses whose outputs are the same for all samples, and are given to each of them.
        keep: The uses whose inputs are changed later, and are copied.
    """

    elsewhere: frozenset[str] = frozenset()
    spread: frozenset[int] = frozenset()
    keep: frozenset[int] = frozenset()


@dataclass
class Watch(TorchFunctionMode):
    """Within it, calls that meet parameters are noted.

    Args:
        parameters: The parameters by name.
        count: The number of samples in the batch.
        habits: What is known of the network.

    Attributes:
        by_content: Whether something was seen by which samples may be treated by what they hold.
    """

    parameters: Mapping[str, Tensor]
    count: int
    habits: Habits = Habits()
    uses: list[Use] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    by_content: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, str]] = {id(p): (p, name) for name, p in self.parameters.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            # Its projections are products like any other; only the function hides them.
            with self:
                return _ATTENTION(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in BY_CONTENT or (name in ("__getitem__", "__setitem__") and _by_tensor(args[1])):
            self.by_content = True
        if readable(name, args):
            with self:
                return written_out(name, args)
        met = [t for t in _tensors(args, kwargs) if id(t) in self._known]
        if not met:
            output = func(*args, **kwargs)
            if isinstance(output, Tensor) and output.ndim == 0 and name != "__get__":
                # One number for all samples, if it is made of samples at all.
                self.by_content = True
            return output
        rule = RULES.get(func)
        call = None if rule is None else rule.read(*args, **kwargs)
        if rule is not None and call is not None:
            pieces = {role: piece for role, p in call.roles.items()
                      if id(p) in self._known and (piece := self._piece(p, role in rule.outer)) is not None}
            pieces = {role: piece for role, piece in pieces.items() if piece.name not in self.habits.elsewhere}
            taken = {id(call.roles[role]) for role in pieces} - ({id(call.input)} - {id(call.roles.get("input"))})
            others = {self._known[id(t)][1] for t in met if id(t) not in taken}
            self.elsewhere |= others
            if pieces:
                return self._use(rule, call, pieces, func(*args, **kwargs))
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        for name in {self._known[id(t)][1] for t in met}:
            self._follow(name, output)
        return output

    def _piece(self, p: Tensor, may_turn: bool) -> Piece | None:
        """Which entries of its parameter a tensor is; ``None`` if they are not in a row."""
        name = self._known[id(p)][1]
        whole = self.parameters[name]
        start = int(p.storage_offset()) - int(whole.storage_offset())
        if p.shape == whole.shape and p.stride() == whole.stride():
            return Piece(name, 0, whole.numel())
        if not whole.is_contiguous():
            return None
        if p.is_contiguous():
            return Piece(name, start, start + p.numel())
        if may_turn and p.ndim == 2 and p.T.is_contiguous():
            return Piece(name, start, start + p.numel(), turned=True)
        return None

    def _use(self, rule: Rule, call: Call, pieces: dict[str, Piece], output: Tensor) -> Tensor:
        place = len(self.uses)
        if place in self.habits.spread:
            output = output.expand(self.count, *(output.shape[1:] if output.shape[:1] == (1,) else output.shape))
        if not output.requires_grad:
            # What lies before it needs no gradient. A copy, because the module may go on in place.
            anchor = output.detach().requires_grad_()
            edge, output = get_gradient_edge(anchor), anchor.clone()
        else:
            edge = get_gradient_edge(output)
            # What goes on in place with a view gives it another history, in which this place has no part.
            output = output.clone() if output._is_view() else output
        own = call.input.detach()
        if place in self.habits.keep:
            call = Call(own.clone(), {role: p.clone() for role, p in call.roles.items()}, call.options)
        else:
            call = Call(own, {role: p.detach() for role, p in call.roles.items()}, call.options)
        self.uses.append(Use(rule, call, pieces, output, edge, call.input._version))
        return output

    def _follow(self, name: str, output: Any) -> None:
        """Takes note of what became of a parameter: another look at it, or something else."""
        whole = self.parameters[name].untyped_storage().data_ptr()
        for t in _tensors((output,), {}):
            if t.untyped_storage().data_ptr() == whole:
                self._known[id(t)] = t, name
            else:
                self.elsewhere.add(name)


def _by_tensor(index: Any) -> bool:
    return isinstance(index, Tensor) or (isinstance(index, tuple) and any(isinstance(i, Tensor) for i in index))


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [t for t in value if isinstance(t, Tensor)]
    return found


# The function asks whether someone watches, and then hands itself over as a whole; this copy of it does not ask.
_ATTENTION = FunctionType(F.multi_head_attention_forward.__code__,
                          {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda *_: False},
                          "multi_head_attention_forward", F.multi_head_attention_forward.__defaults__)
_ATTENTION.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__
