"""Every sequence of batches there is: averages over training noise without any noise of their own."""

import itertools

import torch
from torch.func import functional_call, grad, vmap


class Small:
    """A network of one hidden layer with four samples, and its outputs at two queries."""

    def __init__(self, n=4, seed=0, linear=False, loss="squared"):
        g = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
        self.x, self.y, self.queries = draw(n, 2), draw(n), draw(2, 2)
        self.net = (torch.nn.Linear(2, 1) if linear else
                    torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))).double()
        self.theta = {name: 0.7 * draw(*p.shape) for name, p in self.net.named_parameters()}
        self.loss = (lambda f, y: (f - y).square() / 2) if loss == "squared" else (
            lambda f, y: torch.nn.functional.softplus(-f * y.sign()))

    def outputs(self, theta):
        return functional_call(self.net, theta, (self.queries,))[:, 0]

    def gradients(self, theta):
        one = lambda t, x, y: self.loss(functional_call(self.net, t, (x[None],))[0, 0], y)
        return vmap(grad(one), (None, 0, 0))(theta, self.x, self.y)


def with_replacement(n, batch, steps):
    """All sequences of batches, each a list of samples; all as likely."""
    return itertools.product(itertools.product(range(n), repeat=batch), repeat=steps)


def reshuffled(n, batch, epochs):
    """All sequences of epochs, each a partition in some order into batches; all as likely."""
    each = [[order[i:i + batch] for i in range(0, n, batch)] for order in itertools.permutations(range(n))]
    return (sum(chosen, []) for chosen in itertools.product(each, repeat=epochs))
