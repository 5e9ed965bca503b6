r"""A network that is called by names, as one that is called with positional tensors.

A run keeps what a network received as tensors in order, one row for each sample. Some networks are called with keyword
arguments instead, and give several things at once, their loss among them. A :class:`Calling` says which names are
inputs, in which order, and which part of what comes back is explained; :class:`ByName` is the network seen that way.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import DataError, ModelError, RecordingError
from ..text import shown

#: What stands where a row was made longer, where the network is told by a mask that it is nothing.
FILLED = {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}

#: What stands there in targets: the index that losses ignore.
IGNORED = -100


@dataclass(frozen=True)
class Calling:
    """How a network is called.

    Args:
        names: The names of its inputs, in the order in which a run holds them.
        output: The name of what is explained, among what it gives.
        beside: Further names that it may be called with, which do not change its outputs, such as labels.
        width: Rows of tokens are made this long, where batches have different lengths; ``None`` leaves them.
        padding: The number that fills rows of ``input_ids``.
        known: What makes the network again, in plain data, where that is known.
    """

    names: tuple[str, ...]
    output: str = "logits"
    beside: tuple[str, ...] = ()
    width: int | None = None
    padding: int = 0
    known: Mapping[str, Any] | None = None

    def about(self) -> dict[str, Any]:
        """The same in plain data."""
        return {"names": list(self.names), "output": self.output, "width": self.width, "padding": self.padding,
                "known": None if self.known is None else dict(self.known)}

    @classmethod
    def of(cls, about: Any) -> Calling | None:
        """What :meth:`about` gave, or ``None`` if it is something else."""
        if not isinstance(about, dict):
            return None
        names, output, width, padding, known = map(about.get, ("names", "output", "width", "padding", "known"))
        if (not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names)
                or not isinstance(output, str) or not isinstance(width, int | None) or not isinstance(padding, int)
                or not isinstance(known, dict | None)):
            return None
        return cls(tuple(names), output, width=width, padding=padding, known=known)

    def tensors(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The inputs of a call, in order.

        Raises:
            RecordingError: If it was called in another way.
        """
        known = {*self.names, *self.beside}
        other = [name for name, value in kwargs.items() if name not in known and value is not None]
        missing = [name for name in self.names if not isinstance(kwargs.get(name), Tensor)]
        if args or other or missing:
            how = f"without {missing[0]!r}" if missing else f"with {other[0]!r}" if other else "with inputs in order"
            raise RecordingError(
                f"The network is called {how}, and this recording keeps {', '.join(self.names)}, which are what the "
                "batches of its loader hold. Let the batches hold what the network is called with, by these names."
            )
        return tuple(kwargs[name] for name in self.names)

    def widened(self, inputs: tuple[Tensor, ...], targets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and targets with rows of tokens as long as those of every batch; others as they are."""
        ids = dict(zip(self.names, inputs, strict=True)).get("input_ids")
        if self.width is None or ids is None or ids.ndim != 2 or ids.shape[1] >= self.width:
            return inputs, targets
        length, more = ids.shape[1], self.width - ids.shape[1]

        def longer(t: Tensor, value: int) -> Tensor:
            return F.pad(t, (0, more), value=value) if t.ndim == 2 and t.shape[1] == length else t

        filled = tuple(longer(t, self.padding if name == "input_ids" else FILLED[name]) if name in FILLED else t
                       for name, t in zip(self.names, inputs, strict=True))
        return filled, longer(targets, IGNORED)

    def long_inputs(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Inputs with rows of tokens as long as those of a run."""
        return self.widened(inputs, torch.zeros(0))[0]

    def long_targets(self, targets: Tensor) -> Tensor:
        """Targets of tokens as long as the rows of a run; others as they are."""
        if self.width is None or targets.ndim != 2 or targets.is_floating_point() or targets.shape[1] >= self.width:
            return targets
        return F.pad(targets, (0, self.width - targets.shape[1]), value=IGNORED)

    def picked(self, outputs: Any) -> Tensor:
        """The part of what the network gives that is explained.

        Raises:
            RecordingError: If it is not there.
        """
        value = outputs.get(self.output) if isinstance(outputs, Mapping) else None
        if not isinstance(value, Tensor):
            came = ", ".join(map(str, outputs)) if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"
            raise RecordingError(
                f"The network gives {came}, and {self.output!r} is what should be explained. Name a tensor among what "
                "it gives: output=..."
            )
        return value

    def ordered(self, x: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Inputs that come by name, as a tokenizer or a collator gives them, in order.

        Raises:
            DataError: If one is missing.
        """
        missing = [name for name in self.names if name not in x]
        if missing:
            raise DataError(
                f"The network was trained on {', '.join(self.names)}, and {missing[0]!r} is missing among "
                f"{', '.join(map(str, x))}. Pass a dictionary with all of them."
            )
        return self.long_inputs(tuple(torch.as_tensor(x[name]) for name in self.names))


class ByName(nn.Module):
    """A network that is called with keyword arguments, as one that is called with tensors in order.

    Args:
        model: The network.
        calling: How it is called.
    """

    def __init__(self, model: nn.Module, calling: Calling):
        super().__init__()
        self.model = model
        self.calling = calling
        self.training = model.training
        # A cache of earlier tokens is of no use where all tokens come at once.
        self._fixed = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def forward(self, *inputs: Tensor) -> Tensor:
        """The part of the outputs that is explained."""
        outputs = self.model(**dict(zip(self.calling.names, inputs, strict=True)), **self._fixed)
        return self.calling.picked(outputs)


#: Where the classes are that can be made again from what a run keeps, each by the name of its package.
PACKAGE = "transformers"


def known_to_transformers(model: nn.Module) -> dict[str, Any] | None:
    """What makes a model of ``transformers`` again, in plain data; ``None`` of one with code of its own."""
    kind, config = type(model), cast(Any, getattr(model, "config", None))
    if not kind.__module__.startswith(f"{PACKAGE}.") or not hasattr(config, "to_diff_dict"):
        return None
    import json

    try:
        plain = json.loads(config.to_json_string(use_diff=True))
    except (TypeError, ValueError):
        return None
    return {"package": PACKAGE, "class": kind.__name__, "type": config.model_type, "config": plain,
            "attention": getattr(config, "_attn_implementation", None)}


def is_known(meta: Mapping[str, Any]) -> bool:
    """Whether the network of a run can be made again from what the run says."""
    calling = Calling.of(meta.get("calling"))
    return calling is not None and calling.known is not None


def made_again(meta: Mapping[str, Any]) -> nn.Module | None:
    """The network that a run describes by a class of ``transformers`` and its configuration, with numbers of its own.

    A class is taken from that package by its public name and from nowhere else, and no code is loaded.

    Raises:
        ModelError: If the package is not there, or has no such class.
    """
    calling = Calling.of(meta.get("calling"))
    if calling is None or calling.known is None:
        return None
    known = calling.known
    name = str(known.get("class"))
    try:
        import transformers
    except ImportError:
        raise ModelError(
            f"This run holds a {shown(name)} of transformers, which is not installed. Install it with pip install "
            "'kernelscope[transformers]', or pass model=, a network with the same parameters."
        ) from None
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    config, word = known.get("config"), str(known.get("type"))
    if (not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel) or not isinstance(config, dict)
            or word not in transformers.CONFIG_MAPPING):
        raise ModelError(
            f"This run names {shown(name)}, which is no model of the transformers that is installed "
            f"({transformers.__version__}). Pass model=, a network of the class that was trained."
        )
    plain = {key: value for key, value in config.items() if key not in ("model_type", "auto_map", "architectures")}
    made = transformers.CONFIG_MAPPING[word].from_dict(plain)
    attention = known.get("attention")
    if attention in ("eager", "sdpa"):
        made._attn_implementation = attention
    with torch.random.fork_rng():
        return kind(made)
