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
# # Why this prediction?
#
# A trained network is its initial output plus a sum over what training did:
#
# $$f_T(x) = f_0(x) + \sum_{i} c_i(x) + \text{(decay, momentum at the start, buffers, rounding)}$$
#
# where $c_i(x)$, the **contribution** of training sample $i$, is booked exactly, step by step. In five minutes: train a
# network on handwritten digits, ask why it reads one digit as it does, and see the sum close.

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
train, test

# %% [markdown]
# ## Record
#
# The loop below is an ordinary one. The `with` line around it is all that recording needs: it notes which samples each
# step saw and what the optimizer did, and changes nothing.

# %%
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

with ks.record(model, loader, loss=cross_entropy) as recording:
    for epoch in range(5):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

run = recording.run
accuracy = (model(test.x).argmax(1) == test.y).double().mean().item()
assert len(run) == 5 * len(loader)
assert accuracy > 0.9
print(f"{run}\nright on {accuracy:.1%} of the digits it never saw")

# %% [markdown]
# ## Decompose
#
# `ks.decompose` writes the ten outputs for one held-out digit as that sum. Every training sample has a share in every
# output, and what no sample can be charged with has a channel of its own.

# %%
query = test.x[:1]
d = ks.decompose(run, query)

assert d.contributions.shape == (1, 10, len(train))
d.to_frame().set_index("output").drop(columns="query")

# %% [markdown]
# The column *residual* is what is left when everything else is subtracted. It is the round-off of this arithmetic and
# nothing else: the sum is not an approximation of the network, it *is* the network.

# %%
total = d.initial + sum(d.channels.values())
with torch.no_grad():
    network = model(query)

assert (total - d.final).abs().max() <= 1e-12 * d.magnitude.max()
assert torch.allclose(d.final.float(), network, atol=1e-5)
print(f"the sum misses the network by {float((total - d.final).abs().max()):.0e}")

# %% [markdown]
# ## Ask why
#
# `ks.explain` asks about one number: how far the predicted class is ahead of the runner-up. It answers in words first.

# %%
why = ks.explain(run, query, targets=test.y[:1], k=6)
print(why.sentence())

# %% [markdown]
# **Groups first.** Which classes of training samples pushed for this answer, and which against it? Together they make
# the whole contribution of the data.

# %%
groups = why.by_group()

assert abs(groups.contribution.sum() - float(why.decomposition.channels["data"])) <= 1e-9
figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
why.plot(ax);

# %% [markdown]
# **Then samples.** The ones with the largest pushes, both ways. Contributions are large and cancel: each step moves all
# outputs, and later steps undo much of what earlier ones did. That is why no percentages are given here.

# %%
helpful, harmful = why.helpful(3), why.harmful(3)

assert (helpful.contribution > 0).all()
assert (harmful.contribution < 0).all()
why

# %% [markdown]
# **When was it learned?** The same contributions, booked by step instead of by sample, give the same sum. With momentum
# a step goes on to move the network after it was made; its whole effect is booked at once, so the dashed line runs ahead
# of the output and meets it in the end.

# %%
by_step = why.decomposition.by_step()[0, 0]
half, settled = why.learned()

assert abs(float(by_step.sum() - why.shares[0].sum())) <= 1e-9
assert 0 <= settled <= len(run)
print(f"the prediction has not changed since step {settled} of {len(run)}")
figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
why.decomposition.plot(ax);

# %% [markdown]
# ## The receipt
#
# The explanation ends as a balance sheet: what was there before training, what each group added, the other channels,
# the round-off, and the result.

# %%
balance = why.balance()
*terms, (_, _, final) = balance

assert abs(sum(value for _, _, value in terms) - final) <= 1e-12 * float(why.decomposition.magnitude)
assert why.check().ok
for name, kind, value in balance:
    print(f"{value:+20.12f}  {'samples labelled ' if kind == 'group' else ''}{name}")

# %% [markdown]
# **What this does not say.** A contribution is accounting along this one run: how much of the answer was booked on a
# sample. It is not what would happen if the sample were left out; then the other samples would have had other gradients,
# and the run would have taken another path.
#
# To keep an explanation, set it on a page: `ks.Report("Why this digit?", [why]).save("why.html")`.
