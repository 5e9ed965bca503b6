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
# # Tangent kernels
#
# How much does a small step on one sample move the answer to another? To first order the answer is the product of two
# gradients, the **empirical neural tangent kernel** of the network at its present parameters $\theta$:
#
# $$k(x, z) = \sum_c \langle \nabla_\theta f_c(x), \nabla_\theta f_c(z) \rangle$$
#
# In five minutes: take the kernel of an unchanged network, see what training does to it, multiply by one that would not
# fit in memory, take it apart by layers, and ask which training samples pull the same way as a test sample.

# %%
import copy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import kernelscope as ks

train, test = ks.data.digits("train", flat=False), ks.data.digits("test", flat=False)
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(256, 10))
model

# %% [markdown]
# ## The kernel of a network
#
# A kernel holds the network as it is now; what is done to the network later does not change it. It is computed from the
# factors that the layers' gradients are made of, and is exact. `check=True` compares a random corner with Jacobians in
# float64, and prints how far off it is.

# %%
before = ks.kernels.Tangent(model, check=True)

held_out = test.y.argsort(stable=True)[::3]               # every third of the held-out digits, class by class
x, y = test.x[held_out], test.y[held_out]
K_before = before(x)

assert K_before.shape == (len(x), len(x))
assert torch.equal(K_before, K_before.T)
assert torch.linalg.eigvalsh(K_before.double()).min() > -1e-5 * K_before.trace()   # positive semidefinite

# %% [markdown]
# An ordinary loop trains the network, and a second kernel holds it as it then is. States along the way are kept for the
# end.

# %%
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
states = []
for epoch in range(6):
    for inputs, targets in loader:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    states.append(copy.deepcopy(model.state_dict()))

accuracy = (model(test.x).argmax(1) == test.y).double().mean().item()
after = ks.kernels.Tangent(model)
K_after = after(x)

assert accuracy > 0.9
assert torch.equal(before(x), K_before)
print(f"{after}\nright on {accuracy:.1%} of the digits it never saw")

# %% [markdown]
# ## What training did to it
#
# If two digits of one class have a large entry and two of different classes a small one, then a step on one digit moves
# the right answers. With gradients brought to length 1, as `Tangent(model, cosine=True)` would, the entries are
# cosines. Their **alignment** with the labels says it in one number: the cosine between this matrix and the one that is
# 1 for two samples of one class, both with their means taken out.

# %%
def cosines(K):
    return K / K.diagonal().sqrt()[:, None] / K.diagonal().sqrt()


def centred(K):
    return K - K.mean(0) - K.mean(1, keepdim=True) + K.mean()


def alignment(K, y):
    same, K = centred(one_hot(y).double() @ one_hot(y).double().T), centred(cosines(K.double()))
    return float((K * same).sum() / (K.norm() * same.norm()))


assert torch.allclose(ks.kernels.Tangent(model, cosine=True)(x), cosines(K_after), atol=1e-5)
assert not torch.allclose(K_before, K_after, rtol=0.1)
labelled = alignment(K_before, y), alignment(K_after, y)

figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
for ax, K, when, value in zip(axes, (K_before, K_after), ("before", "after"), labelled, strict=True):
    ax.imshow(cosines(K).numpy(), vmin=0, vmax=1, cmap="viridis")
    ax.set_title(f"{when}: alignment {value:.2f}, mean cosine {cosines(K).mean():.2f}", loc="left", fontsize=10)
    ax.set_xticks([]), ax.set_yticks([])
    ax.set_xlabel(f"{len(x)} held-out digits, by class")
change = "closer to" if labelled[1] > labelled[0] else "no closer to"
figure.suptitle(f"Training brought the kernel {change} the labels", x=0.01, ha="left", weight="bold");

# %% [markdown]
# Sizes change as well: the eigenvalues say how fast each pattern over these digits can be learned by small steps.

# %%
spectra = [torch.linalg.eigvalsh(K.double()).flip(0) for K in (K_before, K_after)]
shares = [float(values[:10].sum() / values.sum()) for values in spectra]

assert all(torch.isclose(values.sum(), K.double().trace())
           for values, K in zip(spectra, (K_before, K_after), strict=True))
figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for values, when, colour in zip(spectra, ("before training", "after training"), ("#5c6068", "#0072b2"), strict=True):
    shown = values[values > 1e-6 * values[0]]
    ax.semilogy(range(1, len(shown) + 1), shown, color=colour, label=when)
ax.set_xlabel("place, from the largest down")
ax.set_ylabel("eigenvalue")
ax.legend(frameon=False)
ax.set_title(f"The ten largest eigenvalues hold {shares[0]:.0%} of the trace before training, {shares[1]:.0%} after",
             loc="left", weight="bold");

# %% [markdown]
# ## Layer by layer
#
# The kernel is a sum over the parameters, so it can be taken apart: `by_layer` and `by_parameter` give the terms.

# %%
layers = after.by_layer(x)
names = {name: f"{type(model.get_submodule(name)).__name__} {name}" for name in layers}
share = {name: float(part.trace() / K_after.trace()) for name, part in layers.items()}
aligned = {name: alignment(part, y) for name, part in layers.items()}

assert torch.allclose(sum(layers.values()), K_after, rtol=1e-4)
assert abs(sum(share.values()) - 1) < 1e-4
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
for ax, values, what in zip(axes, (share, aligned), ("share of the trace", "alignment with the labels"), strict=True):
    ax.barh([names[name] for name in values], list(values.values()), color="#0072b2")
    ax.set_xlabel(what)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].invert_yaxis()
figure.suptitle(f"{names[max(share, key=share.get)]} holds the largest share, and "
                f"{names[max(aligned, key=aligned.get)]} is aligned best", x=0.01, ha="left", weight="bold");

# %% [markdown]
# ## Multiply by what would not fit
#
# With `outputs="full"` all pairs of outputs are kept. On all training samples that is a matrix of 14,370 by 14,370;
# with 100 MB to spend it cannot be formed, and asking for it is refused before anything is computed. A `KernelOperator`
# multiplies by it all the same.

# %%
full = ks.kernels.Tangent(model, outputs="full", memory="100MB")
K = ks.KernelOperator(full, test.x, train.x)
everything = ks.KernelOperator(full, train.x)
try:
    everything.dense()
except Exception as refusal:
    refused = str(refusal)

assert everything.shape == (len(train), 10, len(train), 10)
print(refused)

# %% [markdown]
# What for? One small step of gradient descent on the training loss moves all outputs by
# $-\eta\,K(x, X)\,\partial L/\partial f(X)$, to first order. So the kernel foretells what a step will do to digits
# that the network has never seen, and taking the step shows whether it was right.

# %%
rate = 0.001
outputs = model(train.x).detach().requires_grad_()
pull = torch.autograd.grad(cross_entropy(outputs, train.y), outputs)[0]
foretold = -rate * (K @ pull)

stepped = copy.deepcopy(model)
stepped.zero_grad()
cross_entropy(stepped(train.x), train.y).backward()
with torch.no_grad():
    for parameter in stepped.parameters():
        parameter -= rate * parameter.grad
    moved = stepped(test.x) - model(test.x)
off = float((foretold - moved).norm() / moved.norm())

assert foretold.shape == (len(test), 10)
assert off < 0.05
figure, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
ax.axline((0, 0), slope=1, color="#d5d7dc")
ax.plot(foretold.flatten(), moved.flatten(), ".", color="#0072b2", markersize=3)
ax.set_xlabel("change of an output that the kernel foretells")
ax.set_ylabel("change that the step made")
ax.set_title(f"The kernel foretells a step to {off:.1%}", loc="left", weight="bold");

# %% [markdown]
# ## Which samples pull the same way
#
# With losses instead of outputs, the same products compare a test sample with training samples. A training sample with
# a positive score is a **proponent**: a small step on it lowers the loss of the test sample. One with a negative score
# is an **opponent**. Given states of the network along its training, scores are summed over them, each times its
# learning rate; this is known as TracInCP.

# %%
with torch.no_grad():
    losses = cross_entropy(model(test.x), test.y, reduction="none")
hardest = losses.argsort(descending=True)[:3]             # the test digits that the network finds hardest
asked = torch.utils.data.TensorDataset(test.x[hardest], test.y[hardest])
scores = ks.gradient_scores(model, asked, train, loss=cross_entropy, checkpoints=states, learning_rates=0.1, check=True)

assert scores.scores.shape == (3, len(train))
assert scores.check().ok
scores

# %%
indices, values = scores.top(4)
against, negative = scores.top(4, proponents=False)

assert (values[:, 0] > 0).all() and (negative[:, 0] < 0).all()
assert torch.equal(values, scores.scores.gather(1, indices))
own = float((train.y[indices] == test.y[hardest, None]).double().mean())
others = float((train.y[against] == test.y[hardest, None]).double().mean())
figure, axes = plt.subplots(3, 9, figsize=(10, 4.2), layout="constrained")
for i, row in enumerate(axes):
    pictures = [(test.x[hardest[i]], f"a {test.y[hardest[i]]}", "#1b1d22"),
                *((train.x[j], f"▲ {train.y[j]}", "#0072b2") for j in indices[i]),
                *((train.x[j], f"▼ {train.y[j]}", "#b8480a") for j in against[i])]
    for ax, (image, label, colour) in zip(row, pictures, strict=True):
        ax.imshow(image[0].numpy(), cmap="gray_r")
        ax.set_title(label, color=colour, fontsize=10)
        ax.axis("off")
figure.suptitle(f"{own:.0%} of the strongest proponents (▲), and {others:.0%} of the strongest opponents (▼), "
                "are of the test digit’s class", x=0.01, ha="left", weight="bold");

# %% [markdown]
# A result draws itself, too: the same scores as bars.

# %%
figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
scores.plot(query=0, k=4, ax=ax);

# %% [markdown]
# **What this does not say.** A score compares two gradients at fixed parameters. It is not what the sample
# *contributed* to the answer along the run: `ks.record` and `ks.explain` say that, and there the terms add up. Nor is
# it what would happen if the sample were left out. And the kernel foretells small steps only: it changes as the network
# learns, as the first picture shows.
