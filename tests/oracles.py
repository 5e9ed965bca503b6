r"""Oracles too simple to be wrong: every sample keeps its own copy of every optimizer buffer.

A gradient is held in pieces, one for each source: a sample at a step, weight decay, momentum from before. Every piece
is pushed forward through the update formula as the manual of ``torch.optim`` writes it, and every step then knows which
part of its displacement is whose. Nothing here is shared with the package: no adjoint, no ``torch.func``, only loops,
``torch.autograd.grad`` and a diary that the training loop of the test writes itself.
"""

import copy
import itertools
from dataclasses import dataclass, field

import torch


class Pieces(dict):
    """A tensor as a sum over sources; scalars, tensors and maps that are linear act on each piece."""

    def __add__(self, other):
        return Pieces({key: self[key] + other[key] if key in self and key in other else
                       (self[key] if key in self else other[key]) for key in {**self, **other}})

    def __rmul__(self, factor):
        return Pieces({key: factor * piece for key, piece in self.items()})

    def map(self, function):
        return Pieces({key: function(piece) for key, piece in self.items()})

    def total(self):
        return sum(self.values())


# -- the update formulas of the manual, piece by piece: (memory, gradient, theta, numbers) -> displacement -------------


def signed(g, theta, h):
    g = -1.0 * g if h.get("maximize") else g
    if h.get("weight_decay") and not h.get("decoupled_weight_decay"):
        g = g + Pieces(decay=h["weight_decay"] * theta)
    return g


def decoupled(theta, h):
    if h.get("weight_decay") and h.get("decoupled_weight_decay"):
        return Pieces(decay=-h["lr"] * h["weight_decay"] * theta)
    return Pieces()


def sgd(memory, g, theta, h):
    g = signed(g, theta, h)
    if h["momentum"]:
        b = memory.get("momentum_buffer")
        b = g if b is None else h["momentum"] * b + (1 - h["dampening"]) * g
        memory["momentum_buffer"] = b
        g = g + h["momentum"] * b if h["nesterov"] else b
    return -h["lr"] * g


def moments(memory, g, h):
    b1, b2 = h["betas"]
    t = memory["step"] = memory.get("step", 0) + 1
    m = memory["exp_avg"] = b1 * memory.get("exp_avg", Pieces()) + (1 - b1) * g
    v = memory["exp_avg_sq"] = b2 * memory.get("exp_avg_sq", 0.0) + (1 - b2) * g.total() ** 2
    return t, m, v, b1, b2


def adam(memory, g, theta, h):
    t, m, v, b1, b2 = moments(memory, signed(g, theta, h), h)
    if h["amsgrad"]:
        v = memory["max_exp_avg_sq"] = torch.maximum(torch.as_tensor(memory.get("max_exp_avg_sq", 0.0)).to(v), v)
    return decoupled(theta, h) + (-h["lr"] / (1 - b1**t) / ((v / (1 - b2**t)) ** 0.5 + h["eps"])) * m


def nadam(memory, g, theta, h):
    g = signed(g, theta, h)
    t, m, v, b1, b2 = moments(memory, g, h)
    mu = b1 * (1 - 0.5 * 0.96 ** (t * h["momentum_decay"]))
    after = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * h["momentum_decay"]))
    # torch keeps this one product in float32, whatever the parameters are.
    product = memory["mu_product"] = torch.tensor(memory.get("mu_product", 1.0), dtype=torch.float32).mul(mu).item()
    m_hat = (after / (1 - product * after)) * m + ((1 - mu) / (1 - product)) * g
    return decoupled(theta, h) + (-h["lr"] / ((v / (1 - b2**t)) ** 0.5 + h["eps"])) * m_hat


def radam(memory, g, theta, h):
    t, m, v, b1, b2 = moments(memory, signed(g, theta, h), h)
    infinity = 2 / (1 - b2) - 1
    rho = infinity - 2 * t * b2**t / (1 - b2**t)
    m_hat = (1 / (1 - b1**t)) * m
    if rho > 5:
        length = (1 - b2**t) ** 0.5 / (v**0.5 + h["eps"])
        r = ((rho - 4) * (rho - 2) * infinity / ((infinity - 4) * (infinity - 2) * rho)) ** 0.5
        return decoupled(theta, h) + (-h["lr"] * r * length) * m_hat
    return decoupled(theta, h) + -h["lr"] * m_hat


def adamax(memory, g, theta, h):
    g = signed(g, theta, h)
    b1, b2 = h["betas"]
    t = memory["step"] = memory.get("step", 0) + 1
    m = memory["exp_avg"] = b1 * memory.get("exp_avg", Pieces()) + (1 - b1) * g
    u = memory["exp_inf"] = torch.maximum(b2 * torch.as_tensor(memory.get("exp_inf", torch.zeros_like(theta))),
                                          g.total().abs() + h["eps"])
    return (-h["lr"] / (1 - b1**t) / u) * m


def rmsprop(memory, g, theta, h):
    g = signed(g, theta, h)
    v = memory["square_avg"] = h["alpha"] * memory.get("square_avg", 0.0) + (1 - h["alpha"]) * g.total() ** 2
    if h["centered"]:
        mean = memory["grad_avg"] = h["alpha"] * memory.get("grad_avg", 0.0) + (1 - h["alpha"]) * g.total()
        v = v - mean**2
    g = (1 / (v**0.5 + h["eps"])) * g
    if h["momentum"]:
        g = memory["momentum_buffer"] = h["momentum"] * memory.get("momentum_buffer", Pieces()) + g
    return -h["lr"] * g


def adagrad(memory, g, theta, h):
    g = signed(g, theta, h)
    t = memory["step"] = memory.get("step", 0) + 1
    s = memory["sum"] = memory.get("sum", h["initial_accumulator_value"]) + g.total() ** 2
    return (-h["lr"] / (1 + (t - 1) * h["lr_decay"]) / (s**0.5 + h["eps"])) * g


def adadelta(memory, g, theta, h):
    g = signed(g, theta, h)
    v = memory["square_avg"] = h["rho"] * memory.get("square_avg", 0.0) + (1 - h["rho"]) * g.total() ** 2
    u = memory.get("acc_delta", 0.0)
    delta = ((u + h["eps"]) ** 0.5 / (v + h["eps"]) ** 0.5) * g
    memory["acc_delta"] = h["rho"] * u + (1 - h["rho"]) * delta.total() ** 2
    return -h["lr"] * delta


def muon(memory, g, theta, h):
    mu = h["momentum"]
    b = memory["momentum_buffer"] = mu * memory.get("momentum_buffer", Pieces()) + (1 - mu) * g
    update = mu * b + (1 - mu) * g if h["nesterov"] else b
    q, wide = orthogonaliser(update.total(), h["ns_coefficients"], h["ns_steps"], h["eps"])
    rows, columns = theta.shape
    scale = {None: max(1, rows / columns) ** 0.5, "original": max(1, rows / columns) ** 0.5,
             "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5}[h["adjust_lr_fn"]]
    step = update.map(lambda piece: q @ piece if wide else piece @ q)
    return Pieces(decay=-h["lr"] * h["weight_decay"] * theta) + (-h["lr"] * scale) * step


def orthogonaliser(m, coefficients, steps, eps):
    """Q with NS(M) = Q M or M Q, from the singular values: each one runs through the scalar polynomial alone."""
    a, b, c = coefficients
    wide = m.shape[0] <= m.shape[1]
    squares, u = torch.linalg.eigh(m @ m.T if wide else m.T @ m)
    norm = max(float(m.norm()), eps)
    sigma = squares.clamp(min=0) ** 0.5 / norm
    gain = torch.ones_like(sigma) / norm
    for _ in range(steps):
        factor = a + b * sigma**2 + c * sigma**4
        gain, sigma = gain * factor, sigma * factor
    return u @ torch.diag(gain) @ u.T, wide


RULES = {"SGD": sgd, "Adam": adam, "AdamW": adam, "NAdam": nadam, "RAdam": radam, "Adamax": adamax,
         "RMSprop": rmsprop, "Adagrad": adagrad, "Adadelta": adadelta, "Muon": muon}


# -- what happened ---------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    optimizer: str
    groups: list
    theta: dict
    buffers: dict
    gradient: dict  # parameter -> Pieces
    owner: object  # the optimizer itself


@dataclass
class Diary:
    """What a loop did, written down by the loop itself, with the gradient of every sample at every step.

    ``model`` is copied at once, and all gradients are taken on the copy, so that a recording never sees them.
    """

    model: torch.nn.Module
    x: object
    y: torch.Tensor
    loss: object
    entries: list = field(default_factory=list)
    averages: list = field(default_factory=list)

    def __post_init__(self):
        self.live, self.model = self.model, copy.deepcopy(self.model)
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self.first_buffers = self._buffers()
        self.passes = []

    def _theta(self):
        return {name: p.detach().clone() for name, p in self.live.named_parameters()}

    def _buffers(self):
        return {name: b.detach().clone() for name, b in self.live.named_buffers()}

    def forward(self, ids, weight, together=False):
        """Notes a pass over samples ``ids`` whose losses enter the gradient with ``weight`` each, before it happens."""
        ids = [int(i) for i in ids]
        held = copy.deepcopy(self.live.state_dict()), torch.get_rng_state()
        self._set(self._theta(), self._buffers())
        self.model.train(self.live.training)
        for mine, theirs in zip(self.model.modules(), self.live.modules(), strict=True):
            mine.training = theirs.training
        batch = [ids] if together else [[i] for i in ids]
        losses = [one for some in batch for one in per_sample(self.loss, self.model(self.x[some]), self.y[some])]
        leaves = [p for p in self.model.parameters() if p.requires_grad]
        for i, one in zip(ids, losses, strict=True):
            g = torch.autograd.grad(one, leaves, retain_graph=True, allow_unused=True)
            self.passes.append((i, weight, [torch.zeros_like(p) if v is None else v.detach()
                                            for v, p in zip(g, leaves, strict=True)]))
        torch.set_rng_state(held[1])

    def step(self, optimizer, norm=None, value=None, keep_passes=False):
        """Notes an update just before it happens; ``norm`` and ``value`` are the limits of clipping."""
        theta, names = self._theta(), {id(p): name for name, p in self.live.named_parameters()}
        k = len(self.entries)
        gradient = {name: Pieces() for name in self.names}
        for i, weight, g in self.passes:
            for name, part in zip(self.names, g, strict=True):
                gradient[name] = gradient[name] + Pieces({("data", i, k): weight * part})
        if norm is not None:
            whole = sum(float((g.total() ** 2).sum()) for g in gradient.values()) ** 0.5
            gradient = {name: min(1.0, norm / (whole + 1e-6)) * g for name, g in gradient.items()}
        if value is not None:
            for name, g in gradient.items():
                whole = g.total()
                gradient[name] = torch.where(whole == 0, 1.0, whole.clamp(-value, value) / whole) * g
        groups = []
        for group in optimizer.param_groups:
            mine = [names[id(p)] for p in group["params"] if p.grad is not None and id(p) in names]
            groups.append((mine, {key: item for key, item in group.items() if key != "params"}))
        self.entries.append(Entry(type(optimizer).__name__, groups, theta, self._buffers(), gradient,
                                  optimizer))
        if not keep_passes:
            self.passes = []

    def average(self, factor):
        """Notes an update of averaged weights after the last step: e <- factor e + (1 - factor) theta."""
        self.averages.append(factor)

    def average_from(self, model):
        """Notes the averaged weights before the first update."""
        self.average_start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def close(self):
        self.last, self.last_buffers = self._theta(), self._buffers()

    def _set(self, theta, buffers):
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(theta[name])
            for name, b in self.model.named_buffers():
                b.copy_(buffers[name])

    # -- the outputs of the network and their gradients ---------------------------------------------------------------

    def outputs(self, theta, buffers, x, output=None):
        self._set(theta, buffers)
        self.model.eval()
        out = self.model(x)
        return (out if output is None else output(out)).flatten(1) if out.ndim > 1 else out[:, None]

    def gradients(self, theta, buffers, x, output=None):
        """For each query and output the gradient by name."""
        values = self.outputs(theta, buffers, x, output)
        leaves = dict(self.model.named_parameters())
        leaves = [leaves[name] for name in self.names]
        rows = []
        for value in values.flatten():
            g = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
            rows.append({name: torch.zeros_like(p) if v is None else v.detach()
                         for name, p, v in zip(self.names, leaves, g, strict=True)})
        return values.detach(), rows


def per_sample(loss, outputs, targets):
    losses = loss(outputs, targets, reduction="none")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


# -- the oracle ------------------------------------------------------------------------------------------------------


@dataclass
class Shares:
    contributions: torch.Tensor  # (q, c, n)
    steps: torch.Tensor  # (q, c, T)
    decay: torch.Tensor  # (q, c)
    momentum: torch.Tensor
    unexplained: torch.Tensor  # what the formulas of the manual leave over, rounding if they are right
    moved: float  # the largest relative difference between a step and the sum of its pieces


def displacements(diary, momentum=None):
    """For each step and parameter the pieces of its displacement."""
    memory = {}
    for name, buffers in (momentum or {}).items():
        memory[diary.entries[0].owner, name] = {
            key: Pieces(momentum=b) if key in ("momentum_buffer", "exp_avg") else b for key, b in buffers.items()}
    for entry in diary.entries:
        moved = {name: Pieces() for name in diary.names}
        for names, h in entry.groups:
            for name in names:
                if name in moved:
                    own = memory.setdefault((entry.owner, name), {})
                    moved[name] = RULES[entry.optimizer](own, entry.gradient[name], entry.theta[name], h)
        yield moved


def explicit_shares(diary, x, output=None, momentum=None):
    """Shares of samples and steps by explicit unrolling, the query gradient corrected at the midpoint of each step."""
    pieces = list(displacements(diary, momentum))
    points = [entry.theta for entry in diary.entries] + [diary.last]
    if diary.averages:
        points, pieces = averaged(diary, points, pieces)
    buffers = [entry.buffers for entry in diary.entries]
    q, c = diary.outputs(diary.last, diary.last_buffers, x, output).shape
    n, steps = len(diary.y), len(diary.entries)
    new = lambda *shape: torch.zeros(*shape, dtype=torch.float64)
    shares = Shares(new(q, c, n), new(q, c, steps), new(q, c), new(q, c), new(q, c), 0.0)
    for k in range(steps):
        here, there = points[k], points[k + 1]
        gap = {name: there[name] - here[name] - (pieces[k][name].total() if pieces[k][name] else 0.0)
               for name in diary.names}
        size = sum(float(((there[name] - here[name]) ** 2).sum()) for name in diary.names) ** 0.5
        missing = sum(float((g**2).sum()) for g in gap.values()) ** 0.5
        shares.moved = max(shares.moved, missing / size if size else 0.0)
        for j, phi in enumerate(corrected_midpoint(diary, here, there, buffers[k], x, output)):
            at = divmod(j, c)
            shares.unexplained[at] += sum(float((phi[name] * gap[name]).sum()) for name in diary.names)
            for name in diary.names:
                for source, piece in pieces[k][name].items():
                    amount = float((phi[name] * piece).sum())
                    if source == "decay":
                        shares.decay[at] += amount
                    elif source == "momentum":
                        shares.momentum[at] += amount
                    else:
                        _, i, s = source
                        shares.contributions[at][i] += amount
                        shares.steps[at][s] += amount
    return shares


def averaged(diary, points, pieces):
    """The same for averaged weights, by running the recursion of the average on the sum of each source's pieces."""
    a = diary.averages
    start = diary.average_start
    e = [start]
    for k, factor in enumerate(a):
        e.append({name: factor * e[-1][name] + (1 - factor) * points[k + 1][name] for name in points[0]})
    out = []
    for name in diary.names:
        # Theta of a source: its displacement so far; E of a source: the average of that.
        theta = Pieces(momentum=points[0][name] - start[name])
        mean = Pieces()
        for k, factor in enumerate(a):
            theta = theta + pieces[k][name]
            new = factor * mean + (1 - factor) * theta
            if len(out) <= k:
                out.append({})
            out[k][name] = new + -1.0 * mean
            mean = new
    return e, out


def corrected_midpoint(diary, here, there, buffers, x, output=None):
    """Gonzalez' discrete gradient of each output of each query: p + (f' - f - <p, D>) D / |D|^2, p at the midpoint."""
    before = diary.outputs(here, buffers, x, output).detach().flatten()
    after = diary.outputs(there, buffers, x, output).detach().flatten()
    middle = {name: (here[name] + there[name]) / 2 for name in here}
    d = {name: there[name] - here[name] for name in diary.names}
    square = sum(float((v**2).sum()) for v in d.values())
    _, rows = diary.gradients(middle, buffers, x, output)
    for phi, f, f_next in zip(rows, before, after, strict=True):
        missed = float(f_next - f) - sum(float((phi[name] * d[name]).sum()) for name in diary.names)
        yield {name: phi[name] + (missed / square if square else 0.0) * d[name] for name in diary.names}


# -- smaller oracles -------------------------------------------------------------------------------------------------


def shapley(players, game):
    """Shapley values by the definition: the mean marginal gain over all orders."""
    players = list(players)
    value = dict.fromkeys(players, 0.0)
    orders = list(itertools.permutations(players))
    for order in orders:
        present, before = frozenset(), game(frozenset())
        for player in order:
            present = present | {player}
            after = game(present)
            value[player] += (after - before) / len(orders)
            before = after
    return value


# -- gradients of a network by plain loops ---------------------------------------------------------------------------


def generator(seed):
    return torch.Generator().manual_seed(seed)


def jacobian(model, x, output=None, loss=None, names=None):
    """The gradients of each sample alone, in float64, one output after the other: (n, c, p)."""
    model = copy.deepcopy(model).double().eval()
    own = {name: p for name, p in model.named_parameters() if (p.requires_grad if names is None else name in names)}
    x = tuple(x) if isinstance(x, tuple | list) else (x,)
    samples = []
    for i in range(len(x[0])):
        one = [t[i:i + 1].double() if t.is_floating_point() else t[i:i + 1] for t in x]
        if loss is None:
            outputs = model(*one)
            outputs = (outputs if output is None else output(outputs)).flatten()
        else:
            outputs = loss(model(*one[:-1]), one[-1]).flatten()
        rows = []
        for value in outputs:
            found = torch.autograd.grad(value, list(own.values()), retain_graph=True, allow_unused=True)
            rows.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                                   for g, p in zip(found, own.values(), strict=True)]))
        samples.append(torch.stack(rows))
    return torch.stack(samples)


def products(left, right, outputs="trace"):
    """The kernel of two Jacobians entry by entry: (n, m), or (n, c, m, c)."""
    full = left.new_zeros(*left.shape[:2], *right.shape[:2])
    for i, c, j, d in itertools.product(*map(range, full.shape)):
        full[i, c, j, d] = (left[i, c] * right[j, d]).sum()
    return full if outputs == "full" else sum(full[:, c, :, c] for c in range(left.shape[1]))
