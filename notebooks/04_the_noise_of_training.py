# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The noise of training
#
# Train the same network again, from the same start, on other batches, and it answers a little differently. How much of an
# answer is the draw of the batches? The mean over all draws is a kernel machine again:
#
# $$\mathbb E f_T(x) = f_0(x) + \text{path} + \text{curvature} + \text{noise} + O(T\eta^3)$$
#
# In five minutes: record a run, read its mean and its spread off it, hold both against 200 networks trained anew, see
# which samples are behind the spread, and what an optimizer remembers.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import kernelscope as ks

digits = ks.data.digits("train")
x, y, queries = digits.x[:256], digits.y[:256], ks.data.digits("test").x[:8]


def record(optimizer_of, steps=120, seed=0):
    """A small network, trained on batches that are drawn with replacement."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer, draw = optimizer_of(model.parameters()), torch.Generator().manual_seed(seed)
    with ks.record(model, (x, y), loss=cross_entropy) as recording:
        for _ in range(steps):
            ids = torch.randint(256, (16,), generator=draw)
            recording.batch(ids)
            optimizer.zero_grad()
            cross_entropy(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


run = record(lambda p: torch.optim.SGD(p, lr=0.1))

# %% [markdown]
# ## What one run tells
#
# Nothing is trained here. The bands are where 95 % of runs end; the dots are where this one did.

# %%
found = ks.expected(run, queries)
assert torch.allclose(found.mean + found.fluctuation, found.final)
print(found)
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
found.plot(ax, query=0);

# %%
found.to_frame().head(10).round(3)

# %% [markdown]
# `mean` is the formula along the path of this run, and `final` is where it ended. Both miss the mean over runs, in
# opposite directions; `adjusted` is the mixture of the two that misses it least, and says by how much.

# %%
print(f"off by about: mean {found.mean_error.square().mean().sqrt():.3f}, final {found.std.square().mean().sqrt():.3f}, "
      f"adjusted {found.adjusted_error.square().mean().sqrt():.3f}")
assert (found.adjusted_error <= found.std).all()

# %% [markdown]
# ## What 200 runs say
#
# They are trained all at once. Thin lines are measured.

# %%
beside = ks.expected(run, queries, seeds=200)
print(beside.ensemble)
ratio = float(beside.variance.sum() / beside.ensemble.std.square().sum())
print(f"predicted / measured variance: {ratio:.2f}")
assert 0.7 < ratio < 1.4
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
beside.plot(ax, query=0);

# %% [markdown]
# Measured minus predicted mean, seed by seed: with the path alone, and with curvature and noise.

# %%
path, terms = (beside.ensemble.bias(upto, controlled=True)[0].abs().mean() for upto in ("path", "noise"))
assert terms < path / 5
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
beside.ensemble.plot(ax);

# %% [markdown]
# ## Which samples are behind it
#
# Each sample has a share in each term, and in the variance of the rows of contributions.

# %%
found.top(5, query=0, output=int(found.final[0].argmax())).round(4)

# %% [markdown]
# ## What an optimizer remembers
#
# Momentum brings the gradient of a step in over the steps that follow, so the last ones have not yet brought in all of
# theirs.

# %%
memory = ks.memory_weights({
    "SGD": run,
    "momentum .9": record(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    "Nesterov .9": record(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
    "Adam": record(lambda p: torch.optim.Adam(p, lr=0.01)),
})
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
memory.plot(ax, last=60);

# %% [markdown]
# ## The kernel of the run
#
# The path kernel is the tangent kernel added up along the run; sorted by class, samples of one class pull the same way.

# %%
order = y[:60].argsort(stable=True)
kernel = ks.path_kernel(run, x[:60][order])
print(kernel)
figure, ax = plt.subplots(figsize=(6, 5), layout="constrained")
kernel.plot(ax);
