r"""A module as a function: outputs, Jacobians and per-sample gradients.

A trained module computes :math:`f(\theta, b, x)` with parameters :math:`\theta`, buffers b and input x. This file makes
that function from an ``nn.Module`` without ever touching the module: it works on a copy whose hooks are gone, hands in
clones of the buffers, and leaves the global random state where it was.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from .checkpointing import without_checkpoints
from .errors import ModelError
from .nested import mapped

Parameters = dict[str, Tensor]
Inputs = tuple[Any, ...]

#: What ``torch.func`` raises of a network that it cannot transform.
MISFITS = (RuntimeError, TypeError, ValueError)


#: What is said of a module that can be computed in one precision and not in another.
MADE_ALONE = "makes tensors of {own} in its forward, which do not go together with {asked} ({problem})"


class Network:
    r"""A module seen as :math:`f(\theta, b, x)`.

    Attributes:
        parameters: The module's parameters, tied ones once, detached copies by name.
        buffers: The module's buffers, cloned, by name.
        trainable: The names of the parameters that require a gradient, in order.
        training: The names of the submodules in train mode.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> network = Network(model)
        >>> x = torch.ones(3, 2)
        >>> torch.equal(network(network.parameters, network.buffers, (x,)), model(x))
        True
    """

    def __init__(self, model: nn.Module):
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"A network is made from a torch.nn.Module, but a {type(model).__name__} came. "
                "Pass the module itself, not a function, a class or a state dictionary."
            )
        # A compiled module hides the module it was made from.
        model = getattr(model, "_orig_mod", model)
        self.parameters: Parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.buffers: Parameters = {name: b.detach().clone() for name, b in model.named_buffers()}
        self.trainable: list[str] = [name for name, p in model.named_parameters() if p.requires_grad]
        self.training: tuple[str, ...] = training_flags(model)
        self._modules: dict[tuple[str, ...], nn.Module] = {}
        self._spares_inputs = False
        self._skeleton = _skeleton(model)

    def __call__(self, parameters: Parameters, buffers: Parameters, inputs: Inputs,
                 training: tuple[str, ...] = ()) -> Any:
        """The outputs, in eval mode but for the submodules named in ``training``; ``parameters`` may be a part."""
        module = self.module(training)
        state = {**self.parameters, **parameters, **{name: b.clone() for name, b in buffers.items()}}
        with without_checkpoints():
            return functional_call(module, state, inputs)

    def module(self, training: tuple[str, ...]) -> nn.Module:
        """The copy of the module with the submodules named in train mode; not to be changed."""
        if training not in self._modules:
            module = copy.deepcopy(self._skeleton)
            for name, child in module.named_modules():
                # Set on each module alone: train(mode) would reach its children too.
                # Spectral normalisation turns its vectors as it runs, and the recorded ones are those it had used.
                child.training = name in training and not isinstance(child, nn.utils.parametrizations._SpectralNorm)
                if child.training and isinstance(child, nn.modules.batchnorm._NormBase):
                    # In train mode the statistics are those of the batch; the running ones are only written, and a
                    # transformed function must not write. They have a channel of their own in the ledger.
                    child.track_running_stats = False
                if isinstance(child, nn.RNNBase):
                    # There is nothing to flatten in a function's copy, and flattening would write to its weights.
                    setattr(child, "flatten_parameters", _no_flattening)  # noqa: B010
            if self._spares_inputs:
                module.register_forward_pre_hook(_copied, with_kwargs=True)
            self._modules[training] = module
        return self._modules[training]

    def spare_inputs(self) -> None:
        """From now on gives the module copies of its inputs, because it writes to them."""
        self._spares_inputs = True
        self._modules.clear()

    def at(self, state: Mapping[str, Tensor]) -> Network:
        """The same function at other parameters and buffers, those of a ``state_dict`` of the module.

        Raises:
            ModelError: If it is that of another module.
        """
        if not isinstance(state, Mapping):
            raise ModelError(f"A state is what model.state_dict() gives, and a {type(state).__name__} came.")
        held = {**self.parameters, **self.buffers}
        # Of parameters that are one, a state dictionary has every name; a module may keep some buffers to itself.
        known = {*held, *self._skeleton.state_dict()}
        own = {plain_name(name): name for name in known}
        state = {own.get(plain_name(name), name): value for name, value in state.items()}
        missing = [name for name in self.parameters if name not in state]
        wrong = [name for name, value in state.items() if name not in known or (
            name in held and (not isinstance(value, Tensor) or value.shape != held[name].shape))]
        if missing or wrong:
            what = f"lacks {missing[0]!r}" if missing else f"has another {wrong[0]!r}"
            raise ModelError(
                f"The state is that of another module: it {what}. Pass model.state_dict() of the module itself, as it "
                "was at some time."
            )
        other = copy.copy(self)
        other.parameters = {name: state[name].detach().clone() for name in self.parameters}
        other.buffers = {name: state.get(name, b).detach().clone() for name, b in self.buffers.items()}
        return other

    def batch_norms_without_statistics(self) -> list[str]:
        """The names of the batch normalisations that read the batch they are given in eval mode too."""
        return [name for name, child in self._skeleton.named_modules()
                if isinstance(child, nn.modules.batchnorm._NormBase) and child.running_mean is None
                and not isinstance(child, nn.modules.instancenorm._InstanceNorm)]

    def couples(self, training: tuple[str, ...]) -> bool:
        """Whether a submodule in train mode mixes the samples of a batch, as batch normalisation does."""
        return any(
            name in training and isinstance(child, nn.modules.batchnorm._NormBase)
            and not isinstance(child, nn.modules.instancenorm._InstanceNorm)
            for name, child in self._skeleton.named_modules()
        )


def plain_name(name: Any) -> str:
    """The name of a parameter without what ``torch.compile`` puts before the names of the module it compiles.

    Example:
        >>> plain_name("_orig_mod.0.weight"), plain_name("body._orig_mod.bias")
        ('0.weight', 'body.bias')
    """
    return str(name).replace("_orig_mod.", "")


def _no_flattening() -> None:
    return None


def _copied(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return mapped(Tensor.clone, args), mapped(Tensor.clone, kwargs)


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy of the module without hooks, which belong to the user's loop; but for those that are a part of it."""
    # Hooks may close over anything (a running recording, a logger), and those things must not be copied.
    hooks = [(module, name, getattr(module, name)) for module in model.modules() for name in _HOOKS
             if getattr(module, name, None)]
    memo: dict[int, Any] = {}
    for _, _, table in hooks:
        memo[id(table)] = type(table)()
    for p in model.parameters():
        # Gradients, and hooks on parameters, stay behind.
        memo[id(p)] = nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
    try:
        copied = copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"The module could not be copied ({error}), and it is only read through a copy so that it is never "
            "changed. Keep tensors with gradients, locks and open files out of the module's attributes."
        ) from error
    for name, module in model.named_modules():
        for hook in module._forward_hooks.values():
            if getattr(hook, PART, False):
                copied.get_submodule(name).register_forward_hook(hook)
    for module in copied.modules():
        plain = module.__dict__.pop("_original_forward", None)
        if plain is not None:
            # accelerate builds a reduced precision into a forward; a function is computed in the one that is asked.
            module.__dict__.pop("forward", None)
            if getattr(plain, "__func__", None) is not type(module).forward:
                module.__dict__["forward"] = plain
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            # The same gradient, but one that torch.func can transform and that adds to others.
            module.sparse = False
    return copied


#: What a forward hook has as an attribute that computes a part of what its module gives, from the module alone.
PART = "is_part_of_its_module"

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
          "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")


def hooked_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The submodules with forward hooks other than those of a recording, which stand on the model alone."""
    found = []
    for name, module in model.named_modules():
        own = [hook for table in (module._forward_hooks, module._forward_pre_hooks) for hook in table.values()
               if not getattr(hook, "__module__", "").startswith(__package__) and not does_nothing(hook)]
        if own:
            found.append((name, module))
    return found


def does_nothing(hook: Any) -> bool:
    """Whether a hook is what a copy of a module has in the place of a recording's."""
    return getattr(hook, "__func__", None) is nullcontext.__exit__


def training_flags(model: nn.Module) -> tuple[str, ...]:
    """The names of the submodules in train mode."""
    return tuple(name for name, module in model.named_modules() if module.training)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Within it attention uses its plain formula, and no fused path or reduced precision stands in for the module."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        stack.enter_context(warnings.catch_warnings())
        # torch tells of itself here: of rules that it scripts, and of operations that it vectorises by a loop.
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            torch.backends.cuda.matmul.allow_tf32 = tf32


@contextmanager
def reduced_products() -> Iterator[None]:
    """Within it a GPU may round the factors of matrix products to TF32."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Within it everything is computed exactly, without a graph, and the user's random states are kept safe.

    Those of Python and NumPy too, from which a network may draw.
    """
    own, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with exact_arithmetic(), random_state(None, device), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numbers)  # noqa: NPY002


@contextmanager
def random_state(state: Tensor | None, device: torch.device) -> Iterator[None]:
    """Runs with the given random state and puts the user's own back; with ``None`` only keeps the user's safe."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if state is not None:
            set_random_state(state, device)
        yield


def get_random_state(device: torch.device) -> Tensor:
    """The state from which the next random numbers on ``device`` come, as bytes."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Puts back a state taken by :func:`get_random_state`."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        # torch reads the bytes from the start of the storage, so a row of a table must become a tensor of its own.
        torch.set_rng_state(state.clone())


def cast(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Moves nested tensors to ``device``, and those of floating point to ``dtype``."""
    return mapped(lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device), value)


def per_sample_losses(loss: Callable[..., Tensor], outputs: Any, targets: Any, count: int) -> Tensor:
    """One loss for each of ``count`` samples; further axes (pixels, tokens) are averaged."""
    losses = _checked_losses(loss, outputs, targets, count)
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


def per_part_losses(loss: Callable[..., Tensor], outputs: Any, targets: Any, count: int) -> Tensor:
    """What each part of a sample (pixel, token) adds to its loss, with shape (n, parts); they add up to it."""
    losses = _checked_losses(loss, outputs, targets, count).reshape(count, -1)
    return losses / losses.shape[1]


def _checked_losses(loss: Callable[..., Tensor], outputs: Any, targets: Any, count: int) -> Tensor:
    losses = loss(outputs, targets)
    if not isinstance(losses, Tensor) or losses.ndim == 0 or losses.shape[0] != count:
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ModelError(
            f"The loss must give one number for each of the {count} samples of a batch, and it gave {shape}. "
            'Pass a loss that takes reduction="none", or a function (outputs, targets) -> (n,).'
        )
    return losses


def apart(parameters: Parameters, names: Sequence[str]) -> Parameters:
    """Some of the parameters, each in a storage of its own.

    A tangent is laid out like the storage behind its primal: beside a view of a whole recording it would be as large as
    the recording, once for each direction.
    """
    return {name: parameters[name].clone() for name in names}


def gradients_of(value: Tensor, leaves: Mapping[str, Tensor], retain_graph: bool = False) -> tuple[Tensor | None, ...]:
    """The gradient of a number by each leaf; ``None`` by those it does not depend on, be it all of them."""
    if not value.requires_grad:
        return (None,) * len(leaves)
    found = torch.autograd.grad(value, list(leaves.values()), retain_graph=retain_graph, allow_unused=True)
    return tuple(g.to_dense() if g is not None and g.is_sparse else g for g in found)


def flatten(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """The entries of the tensors, one after the other."""
    flat = torch.cat([t.detach().reshape(-1) for t in tensors]) if tensors else torch.zeros(0)
    return flat if dtype is None else flat.to(dtype)


def unflatten(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Cuts a vector into tensors of the given shapes; the inverse of :func:`flatten`."""
    pieces = torch.split(vector, [shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
