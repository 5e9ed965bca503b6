r"""Update rules: one optimizer, one class.

Every rule here moves a parameter by a step that is linear in what the samples did, once its recorded scalars and
preconditioners are given. With the gradient :math:`\hat g_k` used at step k,

.. math::
    d_k &= \pm\hat g_k + \lambda\theta_k, \\
    m_k &= a_k m_{k-1} + b_k B_k d_k, \\
    \theta_{k+1} - \theta_k &= -A_k (c_k d_k + e_k m_k) - w_k \theta_k .

:math:`A_k` and :math:`B_k` are diagonal (or, for Muon, a matrix that multiplies from one side). They depend on all
samples; the ledger treats them as recorded, which makes it linear and exact. The recorder asks a rule which numbers to
store, the decomposition asks the same rule for the coefficients of a step. Where torch computes with numbers that may
be tensors, a rule does so in the same order, since tensors round in their own precision, and takes a float at the end.

Source: the update rules as implemented by ``torch.optim``; the convention of recorded preconditioners is that of
ExPLAIND (arXiv 2505.20076).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import RuleError

Hyper = Mapping[str, Any]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Diagonal:
    """A preconditioner that multiplies entry by entry."""

    values: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiplies ``rows``, whose trailing axes are those of the parameter."""
        return rows * self.values


@dataclass(frozen=True)
class OneSided:
    """A symmetric matrix that multiplies a matrix parameter from the left, or from the right."""

    matrix: Tensor
    left: bool

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiplies ``rows``, whose two trailing axes are those of the parameter."""
        return self.matrix @ rows if self.left else rows @ self.matrix


Preconditioner = Diagonal | OneSided | None


@dataclass(frozen=True)
class Linear:
    """The coefficients of one step of one parameter, named as in the formula of this module."""

    sign: float = 1.0
    coupled: float = 0.0  # lambda
    a: float = 0.0
    b: float = 0.0
    before: Preconditioner = None  # B
    after: Preconditioner = None  # A
    c: float = 0.0
    e: float = 0.0
    decoupled: float = 0.0  # w

    def displacement(self, theta: Tensor, gradient: Tensor, momentum: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The step of the rule, and the momentum after it."""
        d = self.direction(theta, gradient)
        update = self.c * d
        if self.b != 0.0 or self.a != 0.0:
            fresh = self.b * (d if self.before is None else self.before(d))
            momentum = fresh if momentum is None else momentum * self.a + fresh
            update = update + self.e * momentum
        step = -(update if self.after is None else self.after(update))
        return (step if self.decoupled == 0.0 else step - self.decoupled * theta), momentum

    def beside(self, moved: Tensor, theta: Tensor, gradient: Tensor,
               momentum: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What a motion has beside the step of the rule, in the place of the motion, and the momentum after it."""
        d = self.direction(theta, gradient)
        if self.b != 0.0 or self.a != 0.0:
            side = d if self.before is None else self.before(d)
            momentum = side * self.b if momentum is None else (momentum * self.a).add_(side, alpha=self.b)
        if self.after is None:
            gap = moved if self.c == 0.0 else moved.add_(d, alpha=self.c)
            gap = gap if momentum is None or self.e == 0.0 else gap.add_(momentum, alpha=self.e)
        else:
            update = self.c * d if momentum is None or self.e == 0.0 else momentum * self.e
            if self.c != 0.0 and momentum is not None and self.e != 0.0:
                update.add_(d, alpha=self.c)
            gap = moved.add_(self.after(update))
        return (gap if self.decoupled == 0.0 else gap.add_(theta, alpha=self.decoupled)), momentum

    def direction(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with its sign and its coupled decay, d in the formula."""
        signed = gradient if self.sign == 1.0 else self.sign * gradient
        return signed if self.coupled == 0.0 else signed + self.coupled * theta


class Rule:
    """How one optimizer's step unrolls. A rule has no state of its own."""

    optimizer: ClassVar[str]
    momentum: ClassVar[str | None] = None  # the optimizer's name for m
    moments: ClassVar[tuple[str, ...]] = ()  # the optimizer's names for the states behind A and B
    scalars: ClassVar[tuple[str, ...]] = ()  # states that are one number per parameter
    tolerance: ClassVar[float] = 0.0  # how far low-precision arithmetic inside the optimizer may move a step, relative

    def initial(self, hyper: Hyper, parameter: Tensor) -> State:
        """The states behind A and B before the first step."""
        return {name: torch.zeros_like(parameter) for name in self.moments}

    def rounded(self, hyper: Hyper, theta: Tensor, gradient: Tensor, momentum: Tensor | None) -> Tensor | None:
        """The step with the rounding of low-precision arithmetic inside the optimizer; ``None`` if it has none.

        The arguments are those of :meth:`linear`.
        """
        return None

    def linear(self, hyper: Hyper, age: int, theta: Tensor, gradient: Tensor, momentum: Tensor | None,
               state: State) -> Linear:
        """The coefficients of the parameter's step number ``age`` (from 1); ``state`` is advanced in place.

        Args:
            hyper: The scalars of the parameter group, as the optimizer names them.
            age: The number of steps this parameter has made, this one included.
            theta: The parameter before the step.
            gradient: The gradient used, after clipping.
            momentum: m before the step, or ``None`` before the first one.
            state: The states behind A and B.
        """
        raise RuleError(f"{type(self).__name__} names no coefficients; a rule needs a `linear` method.")


def _sign(hyper: Hyper) -> float:
    return -1.0 if hyper.get("maximize") else 1.0


class SGD(Rule):
    """SGD with momentum, dampening, Nesterov, coupled decay and maximize."""

    optimizer = "SGD"
    momentum = "momentum_buffer"

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        lr, mu = float(hyper["lr"]), hyper["momentum"]
        form = Linear(sign=_sign(hyper), coupled=hyper["weight_decay"])
        if mu == 0:
            return replace(form, c=lr)
        # The first buffer is the bare gradient: torch does not dampen it.
        b = 1.0 if momentum is None else 1.0 - hyper["dampening"]
        if hyper["nesterov"]:
            return replace(form, a=mu, b=b, c=lr, e=lr * mu)
        return replace(form, a=mu, b=b, e=lr)


class Adam(Rule):
    """Adam, with coupled or decoupled decay and amsgrad."""

    optimizer = "Adam"
    momentum = "exp_avg"
    moments = ("exp_avg_sq", "max_exp_avg_sq")

    def initial(self, hyper, parameter):  # noqa: D102
        names = self.moments if hyper["amsgrad"] else self.moments[:1]
        return {name: torch.zeros_like(parameter) for name in names}

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        lr, (beta1, beta2) = hyper["lr"], hyper["betas"]
        form = _decayed(hyper)
        d = form.direction(theta, gradient)
        v = _second_moment(state, "exp_avg_sq", d, beta2)
        if hyper["amsgrad"]:
            v = state["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], v)
        after = Diagonal(1 / (_root(v) / float((1 - beta2**age) ** 0.5) + hyper["eps"]))
        a = float(beta1)
        return replace(form, a=a, b=1 - a, e=float(lr / (1 - beta1**age)), after=after)


class AdamW(Adam):
    """Adam with decoupled decay."""

    optimizer = "AdamW"


class NAdam(Rule):
    """Adam with Nesterov momentum and its momentum schedule."""

    optimizer = "NAdam"
    momentum = "exp_avg"
    moments = ("exp_avg_sq",)
    scalars = ("mu_product",)
    tolerance = 1e-6  # torch keeps the product of the momenta in float32, whatever the parameters are

    def initial(self, hyper, parameter):  # noqa: D102
        return {"exp_avg_sq": torch.zeros_like(parameter), "mu_product": torch.ones(())}

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        lr, (beta1, beta2), psi = hyper["lr"], hyper["betas"], hyper["momentum_decay"]
        form = _decayed(hyper)
        v = _second_moment(state, "exp_avg_sq", form.direction(theta, gradient), beta2)
        mu = beta1 * (1 - 0.5 * 0.96 ** (age * psi))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((age + 1) * psi))
        state["mu_product"] = state["mu_product"] * mu
        product = float(state["mu_product"])
        after = Diagonal(1 / (_root(v / (1 - beta2**age)) + hyper["eps"]))
        c, e = float(lr * (1 - mu) / (1 - product)), float(lr * mu_next / (1 - product * mu_next))
        return replace(form, a=beta1, b=1 - beta1, c=c, e=e, after=after)


class RAdam(Rule):
    """Adam with the rectified variance."""

    optimizer = "RAdam"
    momentum = "exp_avg"
    moments = ("exp_avg_sq",)

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        lr, (beta1, beta2) = hyper["lr"], hyper["betas"]
        form = _decayed(hyper)
        v = _second_moment(state, "exp_avg_sq", form.direction(theta, gradient), beta2)
        e = float(lr) / (1 - beta1**age)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * age * beta2**age / (1 - beta2**age)
        if rho <= 5.0:
            return replace(form, a=beta1, b=1 - beta1, e=e)
        rectified = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        after = Diagonal(math.sqrt(1 - beta2**age) * rectified / (_root(v) + hyper["eps"]))
        return replace(form, a=beta1, b=1 - beta1, e=e, after=after)


class Adamax(Rule):
    """Adam with the infinity norm."""

    optimizer = "Adamax"
    momentum = "exp_avg"
    moments = ("exp_inf",)

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        lr, (beta1, beta2) = hyper["lr"], hyper["betas"]
        form = _decayed(hyper)
        d = form.direction(theta, gradient)
        u = state["exp_inf"] = torch.maximum(state["exp_inf"] * beta2, d.abs() + hyper["eps"])
        return replace(form, a=beta1, b=1 - beta1, e=float(lr / (1 - beta1**age)), after=Diagonal(1 / u))


class RMSprop(Rule):
    """RMSprop, centered or not, with momentum behind its preconditioner."""

    optimizer = "RMSprop"
    momentum = "momentum_buffer"
    moments = ("square_avg", "grad_avg")

    def initial(self, hyper, parameter):  # noqa: D102
        names = self.moments if hyper["centered"] else self.moments[:1]
        return {name: torch.zeros_like(parameter) for name in names}

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        lr, alpha = float(hyper["lr"]), hyper["alpha"]
        form = _decayed(hyper)
        d = form.direction(theta, gradient)
        v = _second_moment(state, "square_avg", d, alpha)
        if hyper["centered"]:
            mean = state["grad_avg"] = state["grad_avg"] * alpha + (1 - alpha) * d
            v = v - mean * mean
        scale = Diagonal(1 / (_root(v) + hyper["eps"]))
        if hyper["momentum"] > 0:
            return replace(form, a=hyper["momentum"], b=1.0, before=scale, e=lr)
        return replace(form, c=lr, after=scale)


class Adagrad(Rule):
    """Adagrad with learning-rate decay."""

    optimizer = "Adagrad"
    moments = ("sum",)

    def initial(self, hyper, parameter):  # noqa: D102
        return {"sum": torch.full_like(parameter, hyper["initial_accumulator_value"])}

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        form = _decayed(hyper)
        d = form.direction(theta, gradient)
        state["sum"] = state["sum"] + d * d
        lr = float(hyper["lr"] / (1 + (age - 1) * hyper["lr_decay"]))
        return replace(form, c=lr, after=Diagonal(1 / (_root(state["sum"]) + hyper["eps"])))


class Adadelta(Rule):
    """Adadelta, whose own step lengths are part of its preconditioner."""

    optimizer = "Adadelta"
    moments = ("square_avg", "acc_delta")

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        rho, eps = hyper["rho"], hyper["eps"]
        form = _decayed(hyper)
        d = form.direction(theta, gradient)
        v = _second_moment(state, "square_avg", d, rho)
        scale = ((state["acc_delta"] + eps) / (v + eps)).sqrt()
        state["acc_delta"] = state["acc_delta"] * rho + (1 - rho) * (scale * d) ** 2
        return replace(form, c=float(hyper["lr"]), after=Diagonal(scale))


class Muon(Rule):
    r"""Muon: momentum, then a Newton-Schulz polynomial, which is odd and so a matrix times its argument.

    :math:`NS(M) = Q M` with :math:`Q = \prod_j (aI + bG_j + cG_j^2) / |M|` and :math:`G_j = X_jX_j^T`. torch runs the
    polynomial in bfloat16; the difference to Q M in float64 is rounding, and the ledger books it there. The polynomial
    raises small singular values by up to :math:`a^5`, and what bfloat16 rounded off with them: on a matrix of low rank
    the difference is a fifth of the step and more.
    """

    optimizer = "Muon"
    momentum = "momentum_buffer"

    def linear(self, hyper, age, theta, gradient, momentum, state):  # noqa: D102
        mu, (c, e) = hyper["momentum"], self._parts(hyper)
        update = self._update(hyper, gradient, momentum)
        after = newton_schulz(update, hyper["ns_coefficients"], hyper["ns_steps"], hyper["eps"])
        length = self._length(hyper, theta)
        return Linear(a=mu, b=1 - mu, c=length * c, e=length * e, after=after, decoupled=_shrinkage(hyper))

    def rounded(self, hyper, theta, gradient, momentum):  # noqa: D102
        update = self._update(hyper, gradient, momentum)
        turned = newton_schulz_in_bfloat16(update, hyper["ns_coefficients"], hyper["ns_steps"], hyper["eps"])
        return -self._length(hyper, theta) * turned.to(theta) - _shrinkage(hyper) * theta

    def _parts(self, hyper: Hyper) -> tuple[float, float]:
        # lerp(gradient, buffer, mu): the Nesterov look-ahead is again a mean of the two.
        return (1 - hyper["momentum"], hyper["momentum"]) if hyper["nesterov"] else (0.0, 1.0)

    def _update(self, hyper: Hyper, gradient: Tensor, momentum: Tensor | None) -> Tensor:
        mu, (c, e) = hyper["momentum"], self._parts(hyper)
        mean = (1 - mu) * gradient if momentum is None else mu * momentum + (1 - mu) * gradient
        return c * gradient + e * mean

    def _length(self, hyper: Hyper, theta: Tensor) -> float:
        rows, columns = theta.shape
        match hyper["adjust_lr_fn"]:
            case None | "original":
                scale = math.sqrt(max(1, rows / columns))
            case "match_rms_adamw":
                scale = 0.2 * math.sqrt(max(rows, columns))
            case _:
                scale = 1.0
        return float(hyper["lr"] * scale)


def newton_schulz(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> OneSided:
    """The matrix Q with NS(M) = Q M (or M Q where M has more rows than columns)."""
    a, b, c = coefficients
    left = matrix.shape[0] <= matrix.shape[1]
    x = matrix if left else matrix.T
    scale = 1 / x.norm().clamp(min=eps)
    x = x * scale
    identity = torch.eye(x.shape[0], dtype=x.dtype, device=x.device)
    q = identity * scale
    for _ in range(steps):
        gram = x @ x.T
        factor = a * identity + b * gram + c * gram @ gram
        x, q = factor @ x, factor @ q
    return OneSided(q, left)


def newton_schulz_in_bfloat16(matrix: Tensor, coefficients: tuple[float, float, float], steps: int,
                              eps: float) -> Tensor:
    """NS(M) by the same operations in the same order as in torch, so that it is rounded in the same way."""
    a, b, c = coefficients
    left = matrix.shape[0] <= matrix.shape[1]
    x = matrix.bfloat16() if left else matrix.bfloat16().T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if left else x.T


def _decayed(hyper: Hyper) -> Linear:
    """Sign and decay, coupled or decoupled, as most optimizers of torch write them."""
    decay = hyper["weight_decay"]
    if hyper.get("decoupled_weight_decay"):
        return Linear(sign=_sign(hyper), decoupled=_shrinkage(hyper))
    return Linear(sign=_sign(hyper), coupled=decay)


def _shrinkage(hyper: Hyper) -> float:
    """By how much decoupled decay shortens a parameter; torch multiplies by one less it, rounded."""
    part = hyper["lr"] * hyper["weight_decay"]
    return 1 - float(1 - part) if isinstance(part, Tensor) else part


def _root(values: Tensor) -> Tensor:
    """The root, to the last digit, with the derivative 0 at nought: what it divides is nought there as well."""
    there = values != 0
    return torch.where(there, values, 1.0).sqrt() * there


def _second_moment(state: State, name: str, d: Tensor, beta: float) -> Tensor:
    state[name] = state[name] * float(beta) + float(1 - beta) * d * d
    return state[name]


#: The methods that make an update: a class that inherits all of them moves parameters as its parent does.
UPDATE = ("step", "_init_group")

RULES: dict[str, Rule] = {
    rule.optimizer: rule
    for rule in (SGD(), Adam(), AdamW(), NAdam(), RAdam(), Adamax(), RMSprop(), Adagrad(), Adadelta(), Muon())
}


def rule_name(optimizer: torch.optim.Optimizer) -> str:
    """The name under which an optimizer's rule is known: its class, or the class whose update it inherits whole."""
    own = type(optimizer)
    for kind in own.__mro__:
        known = getattr(torch.optim, kind.__name__, None) is kind
        if known and all(_as_written(own, part) is _as_written(kind, part) for part in UPDATE):
            return kind.__name__
    # A class of its own that has the name of one of torch's is not to be taken for it.
    taken = hasattr(torch.optim, own.__qualname__)
    return f"{own.__module__}.{own.__qualname__}" if taken else own.__qualname__


def _as_written(kind: type, part: str) -> Any:
    """A method of a class, out of the wrappers of torch, which may lie around an inherited one once more."""
    function: Any = getattr(kind, part, None)
    while hasattr(function, "__wrapped__") and function.__globals__["__name__"].partition(".")[0] == "torch":
        function = function.__wrapped__
    return function


def find_rule(name: str) -> Rule:
    """The rule of an optimizer, or a refusal that names it.

    Raises:
        RuleError: If the optimizer's step cannot be unrolled into shares of samples.

    Example:
        >>> find_rule("SGD").momentum
        'momentum_buffer'
    """
    if name in RULES:
        return RULES[name]
    why, way = "it is no linear function of recorded gradients here", ""
    if not hasattr(torch.optim, name):
        why = "it is a class of its own, whose step is not known to be that of an optimizer of torch"
        way = " A subclass that leaves step as it is unrolls like its parent."
    raise RuleError(
        f"The step of {name} cannot be unrolled into shares of its samples: {why}. Train with one of "
        f"{', '.join(sorted(RULES))}, or call decompose(..., rule=\"displacement\"), which books the whole step of "
        f"this run as unattributed.{way}"
    )
