"""The tensors of checkpoints as the parameters and buffers of one model.

Programs put words before the names: a wrapper adds ``module.``, a compiler ``_orig_mod.``, a trainer the attribute that
holds the network. The words are taken off that leave most names known, and are said. What is then missing, left over or
of another shape belongs to another network.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, NonFiniteError
from ..network import Network, Parameters, plain_name
from ..text import shown

#: Numbers in an optimizer's groups that SGD, Adam and AdamW do not have.
OTHERS = ("alpha", "centered", "rho", "lr_decay", "momentum_decay", "ns_steps", "scale_parameter")

#: A tensor is said to stand out whose largest entry is this many times that of the other checkpoints.
OUTLIER = 1e4


class Matching:
    """Which tensor of a checkpoint is which of the model's.

    Args:
        model: The model.
        network: The same as a function.
        own: What the names of the model begin with and those of checkpoints do not.

    Attributes:
        prefix: What was taken off the names, in words.
    """

    def __init__(self, model: nn.Module, network: Network, own: str = ""):
        self.network = network
        plain = lambda name: plain_name(name).removeprefix(own)
        self.prefix = ""
        self.left_out: list[str] = []
        owners = {id(p): name for name, p in model.named_parameters()}
        # Of parameters that are one, a file may hold any name.
        self._aliases = {plain(name): plain(owners[id(p)])
                         for name, p in model.named_parameters(remove_duplicate=False)}
        self._kept = set(map(plain, model.state_dict()))
        self._names = {name: plain(name) for name in [*network.parameters, *network.buffers]}
        self._own = {plain(name): name for name in [*network.parameters, *network.buffers]}

    def __call__(self, tensors: Mapping[str, Tensor], name: str) -> tuple[Parameters, Parameters]:
        """Parameters and buffers of a checkpoint, by the names of the model.

        Raises:
            ModelError: If it is one of another network.
            NonFiniteError: If a number is none.
        """
        plain = {plain_name(key): t for key, t in tensors.items()}
        prefix = self._prefix(plain, name)
        self.prefix = prefix or self.prefix
        if any(key.find("_orig_mod.") >= 0 for key in tensors):
            self.prefix = f"_orig_mod.{prefix}"
        known = {key[len(prefix):]: t for key, t in plain.items() if key.startswith(prefix)}
        self.left_out = [key for key in plain if not key.startswith(prefix)]
        known = {self._aliases.get(key, key): t for key, t in known.items()}
        held = {**self.network.parameters, **self.network.buffers}
        needed = [key for key in map(self._names.__getitem__, held) if key in self._kept]
        missing = [key for key in needed if key not in known]
        unexpected = [key for key in known if key not in self._own and key not in self._kept]
        bent = [key for key in needed if key in known and known[key].shape != held[self._own[key]].shape]
        if missing or unexpected or bent:
            raise ModelError(self._another(name, known, missing, unexpected, bent, held))
        for key in needed:
            t, own = known[key], held[self._own[key]]
            if t.is_complex() != own.is_complex() or (own.is_floating_point() and not t.is_floating_point()):
                raise ModelError(
                    f"{name} holds {key!r} as {t.dtype}, and the model as {own.dtype}: these are numbers of another "
                    "network, or were packed. Pass a checkpoint with the numbers as they were trained."
                )
            if t.is_floating_point() and not bool(torch.isfinite(t).all()):
                raise NonFiniteError(
                    f"{name} holds {int((~torch.isfinite(t)).sum())} numbers in {key!r} that are NaN or infinite. "
                    "Training had diverged, or the file is damaged: leave this checkpoint out, and all after it."
                )
        found = {self._own[key]: known[key] for key in needed}
        return ({n: found[n] for n in self.network.parameters if n in found},
                {n: found[n] for n in self.network.buffers if n in found})

    @property
    def count(self) -> int:
        """How many tensors of the model a checkpoint holds."""
        return len([key for key in self._names.values() if key in self._kept])

    def _prefix(self, plain: Mapping[str, Tensor], file: str) -> str:
        names = set(self._own) | set(self._aliases)
        tried = {""} | {key[:-len(name)] for key in plain for name in list(names)[:3] if key.endswith(f".{name}")}
        tried |= {"model.", "module."}
        held = {**self.network.parameters, **self.network.buffers}
        needed = {name: held[own].shape for name, own in self._own.items() if name in self._kept}
        whole = sorted(p for p in tried if all(p + name in plain and plain[p + name].shape == shape
                                               for name, shape in needed.items()))
        if len(whole) > 1 and "" not in whole:
            raise ModelError(
                f"{file} holds several networks of this kind, {' and '.join(shown(repr(p)) for p in whole)}, such as a "
                "trained one and its average. Pass state dictionaries with the tensors of one of them: {name."
                f"removeprefix({shown(repr(whole[0]))}): t for name, t in state.items() if name.startswith("
                f"{shown(repr(whole[0]))})}}, by step."
            )
        return max(sorted(tried, key=len), key=lambda p: sum(p + name in plain for name in names))

    def _another(self, name: str, known: Mapping[str, Tensor], missing: list[str], unexpected: list[str],
                 bent: list[str], held: Mapping[str, Tensor]) -> str:
        parts = []
        if missing:
            near = get_close_matches(missing[0], unexpected, 1)
            parts.append(f"lacks {len(missing)} tensors of the model (first: {missing[0]!r}"
                         f"{f', and has {shown(near[0])!r}' if near else ''})")
        if unexpected:
            parts.append(f"has {len(unexpected)} that the model lacks (first: {shown(unexpected[0])!r})")
        if bent:
            key = bent[0]
            parts.append(f"has {len(bent)} of another shape (first: {key!r}, {tuple(known[key].shape)} and not "
                         f"{tuple(held[self._own[key]].shape)} as in the model)")
        return (f"{name} is a checkpoint of another network: it {', '.join(parts)}. Build the model with the arguments "
                "it was trained with, or leave this file out.")


def second_moments(optimizer: Mapping[str, Any] | None, network: Network) -> dict[str, Tensor]:
    """What an optimizer's state dictionary holds of Adam, as ``0|parameter|name``; empty where it cannot be told.

    States are numbered in the order of the parameter groups. Of one group that is the order of the model; of two it is
    taken to be that of a trainer which spares vectors from weight decay.
    """
    names = network.trainable
    states = (optimizer or {}).get("state")
    order = _order(optimizer, network) if isinstance(states, Mapping) else None
    if order is None or not isinstance(states, Mapping):
        return {}
    found: dict[str, Tensor] = {}
    for number, name in order.items():
        own = states.get(number)
        if not isinstance(own, Mapping):
            continue
        v, step = own.get("exp_avg_sq"), own.get("step")
        if not isinstance(v, Tensor) or v.shape != network.parameters[name].shape or step is None:
            return {}
        if not bool(torch.isfinite(v).all()) or bool((v < 0).any()):
            return {}
        found[f"0|{name}|exp_avg_sq"] = v.detach()
        found[f"0|{name}|step"] = torch.as_tensor(float(step))
    return found if len(found) == 2 * len(names) else {}


def another_optimizer(groups: list[dict[str, Any]] | None) -> str | None:
    """A number in the groups that tells them from those of SGD, Adam and AdamW, if there is one."""
    group = groups[0] if groups else {}
    found = next((key for key in OTHERS if key in group), None)
    if found is None and "betas" in group:
        # Lion has betas and no eps, Adamax and RAdam of torch no amsgrad; those of others may lack the word too.
        torchs = "foreach" in group or "decoupled_weight_decay" in group
        found = "betas" if "eps" not in group or (torchs and "amsgrad" not in group) else None
    return found


def parameter_groups(optimizer: Mapping[str, Any] | None, network: Network) -> list[dict[str, Any]] | None:
    """The numbers of an optimizer's groups with the names of their parameters, or ``None`` where it cannot be told."""
    order = _order(optimizer, network)
    if order is None or optimizer is None:
        return None
    return [{**{key: value for key, value in group.items() if key not in ("params", "param_names")},
             "names": [order[number] for number in group["params"]]} for group in optimizer["param_groups"]]


def _order(optimizer: Mapping[str, Any] | None, network: Network) -> dict[int, str] | None:
    groups = (optimizer or {}).get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(g, Mapping) and isinstance(g.get("params"), list)
                                               for g in groups):
        return None
    names = network.trainable
    numbers = [number for group in groups for number in group["params"]]
    if len(numbers) != len(names) or len(set(numbers)) != len(names):
        return None
    if all(isinstance(g.get("param_names"), list) for g in groups):
        said = [plain_name(name) for group in groups for name in group["param_names"]]
        if sorted(said) == sorted(map(plain_name, names)):
            own = {plain_name(name): name for name in names}
            return {number: own[name] for number, name in zip(numbers, said, strict=True)}
    if len(groups) == 1:
        ordered = names
    elif len(groups) == 2:
        decayed = [name for name in names if network.parameters[name].ndim >= 2]
        ordered = decayed + [name for name in names if name not in decayed]
        if len(groups[0]["params"]) != len(decayed):
            return None
    else:
        return None
    order = dict(zip(numbers, ordered, strict=True))
    return order if _fits(order, (optimizer or {}).get("state"), network) else None


def _fits(order: dict[int, str], states: Any, network: Network) -> bool:
    """Whether states have the shapes of the parameters that they are said to be of."""
    for number, name in order.items():
        held = states.get(number) if isinstance(states, Mapping) else None
        v = held.get("exp_avg_sq", held.get("momentum_buffer")) if isinstance(held, Mapping) else None
        if isinstance(v, Tensor) and v.shape != network.parameters[name].shape:
            return False
    return True


def outliers(sizes: list[dict[str, float]], names: list[str]) -> list[str]:
    """Tensors with an entry far beyond those of the same tensor in all other checkpoints, in words."""
    found = []
    for i, own in enumerate(sizes):
        for key, size in own.items():
            others = [other[key] for j, other in enumerate(sizes) if j != i and key in other]
            if others and size > OUTLIER * max(*others, 1.0):
                found.append(f"{names[i]} has an entry of {size:.1e} in {key!r}, and no other checkpoint one above "
                             f"{max(others):.1e}: the file may be damaged")
    return found
