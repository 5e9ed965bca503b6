"""Small recorded runs of every kind, drawn at random, with inputs that do not span everything."""

import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.Softplus)


def drawn_run(seed, dtype=torch.float64, residuals=False):
    """A run, some queries and their targets: the same at each call with one seed.

    With ``residuals`` it is one whose residuals are carried: of the squared loss, without decay and batch statistics.
    """
    g = torch.Generator().manual_seed(seed)
    pick = lambda *options: options[int(torch.randint(len(options), (1,), generator=g))]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        features, n, q, c = pick(2, 3, 5), pick(3, 6, 9), pick(2, 5, 8), pick(1, 2, 3)
        classes = pick(False, False, True)
        classes = classes and not residuals
        c = max(c, 2) if classes else c
        # Inputs of lower rank leave directions that no parameter hears of.
        span = torch.randn(pick(1, 2, features), features, generator=g, dtype=dtype)
        x = torch.randn(n, len(span), generator=g, dtype=dtype) @ span
        z = torch.randn(q, len(span), generator=g, dtype=dtype) @ span
        if pick(False, True):
            z[-1] = z[0]
        target = (lambda k: torch.randint(c, (k,), generator=g)) if classes else (
            lambda k: torch.randn(k, c, generator=g, dtype=dtype))
        y, aims = target(n), target(q)
        model = _network(pick, features, c, not residuals).to(dtype)
        loss = F.cross_entropy if classes else F.mse_loss
        rate = pick(0.01, 0.1, 0.3)
        optimizer = pick(
            lambda p: torch.optim.SGD(p, lr=rate), lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9),
            lambda p: torch.optim.SGD(p, lr=rate / 3, momentum=0.8, nesterov=True,
                                      weight_decay=0.1 * (not residuals)),
            lambda p: torch.optim.Adam(p, lr=rate / 3),
            lambda p: torch.optim.AdamW(p, lr=rate / 3, weight_decay=0.01 * (not residuals)))(
                model.parameters())
        size, steps = pick(2, n), pick(1, 4, 12)
        with ks.record(model, (x, y), loss=loss, keep=pick("all", 3)) as recording:
            for _ in range(steps):
                ids = torch.randperm(n, generator=g)[:max(size, 2)]
                recording.batch(ids)
                optimizer.zero_grad()
                value = loss(model(x[ids]), y[ids])
                value.backward()
                optimizer.step()
                # Of steps too large to learn by, the first are enough.
                if not value < 1e6:
                    break
    return recording.run, z, aims


def _network(pick, features, outputs, norm):
    activation, hidden = pick(*ACTIVATIONS), pick(1, 2, 4)
    kind = pick("linear", "one", "two", "norm" if norm else "one", "plain")
    if kind == "linear":
        return nn.Linear(features, outputs, bias=pick(True, False))
    if kind == "plain":
        return nn.Sequential(nn.Linear(features, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, outputs, bias=False))
    layers = [nn.Linear(features, hidden)]
    if kind == "norm":
        layers.append(nn.BatchNorm1d(hidden))
    layers += [activation()]
    if kind == "two":
        layers += [nn.Linear(hidden, hidden), activation()]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))
