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
# # Layers that are kernels
#
# A layer with many neurons, $f(Wx + b)$, is a function of two things: a point and a neuron. Written as a product
# $\Phi(x) \cdot \Psi(w, b)$ of what is said of the one and what is said of the other, it is linear in all that it
# learns. Then it is a kernel machine: solved for in place of trained, and asked which samples made an answer.
#
# In a few minutes, on handwritten digits.

# %%
import copy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")


def right(answers, classes):
    return float((answers.argmax(1) == classes).double().mean())


# %% [markdown]
# ## Features whose products are a kernel
#
# Cosines and sines of random directions: on average their products are the Gaussian kernel, and the error falls as one
# over the root of how many there are.

# %%
kernel = ks.kernels.Gaussian(bandwidth=4.0)(train.x[:200].double())
off = {}
for size in (128, 512, 2048):
    features = ks.features.RandomFourier(size, bandwidth=4.0)
    off[size] = float((features.inner(train.x[:200].double()) - kernel).norm() / kernel.norm())
print({size: round(error, 4) for size, error in off.items()})
assert off[2048] < off[512] / 1.5 < off[128] / 2

# %% [markdown]
# ## A machine of features
#
# `ks.fit` takes a feature map in place of a kernel. There are as many coefficients as features, however many samples
# there are, and one factorisation gives every ridge. Without other samples to validate on, the ridge is chosen by
# generalised cross-validation.

# %%
columns = one_hot(train.y).double()
machine = ks.fit(ks.features.RandomFourier(1024, bandwidth=4.0), train.x, columns,
                 ridge=[1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2], intercept=True, progress=False)
print(machine, f"{right(machine(test.x), test.y):.1%} of the test digits are told right", sep="\n")
assert right(machine(test.x), test.y) > 0.97

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
machine.gcv.plot(ax);

# %% [markdown]
# What would each digit be called by the machine that was fitted to all the others? That takes no other fit. Digits
# whose answers lean on themselves have a large leverage. One of them is fitted again here, to see that it is so.

# %%
left_out = machine.leave_one_out()
print(left_out, f"{right(left_out.values, train.y):.1%} are told right by the others", sep="\n")
again = ks.fit(machine.features, train.x[1:], columns[1:], ridge=machine.ridge, intercept=True, progress=False)
assert torch.allclose(again(train.x[:1]).double(), left_out.values[:1], atol=1e-4)

# %% [markdown]
# ## A trained layer, converted
#
# A network with two hidden layers of 128 units. Its first layer, the linear map with tanh after it, becomes 32
# features and a linear map beside them, by one ridge regression. The report says how far off it is on inputs that were
# not fitted, and what else would have been possible.

# %%
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10))


def learn(model, parameters, steps, rate, x=train.x, y=train.y):
    optimizer, draw = torch.optim.Adam(parameters, rate), torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(0, len(x), (64,), generator=draw)
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()


learn(net, net.parameters(), 500, 3e-3)
layer, report = ks.nn.SNNKLinear.from_linear(net[0], net[1], train.x, features=32)
print(report)
assert report.rel_frob < report.linear_rel
converted = nn.Sequential(layer, *net[2:])
with torch.no_grad():
    before, after = right(net(test.x), test.y), right(converted(test.x), test.y)
print(f"the network tells {before:.1%} of the test digits right, with the converted layer {after:.1%}")
assert before - after < 0.02

# %% [markdown]
# All ways to convert it, for several numbers of features. The least error of so many features without a linear map is
# the floor. The analytic way, which fits nothing, is refused here, and says why. Beside them is what needs no
# features: the layer itself with weights of low rank is hard to beat.

# %%
modes = ks.nn.compare_modes(net[0], net[1], train.x, features=[16, 32, 64])
print(modes.refused["analytic"])
assert "analytic" in modes.refused
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
modes.plot(ax);

# %% [markdown]
# ## A network in one solve
#
# The whole network becomes random features and one matrix. Fitted to the labels it does not need the network at all;
# the report sets both, and a linear map, side by side.

# %%
bundled, report = ks.nn.bundle(net, train.x, train.y, mode="full", features=512, test=(test.x, test.y))
print(report)
print(f"{bundled.trainable_parameters:,} numbers were solved for")
assert bundled.trainable_parameters < 6000
assert report.score_after > 0.975
figure, ax = plt.subplots(figsize=(7, 2.5), layout="constrained")
report.plot(ax);

# %% [markdown]
# It is a kernel machine, so its answer is a sum of one term for each training digit. Which ones made this answer?

# %%
answer = int(bundled(test.x[:1]).argmax())
why = bundled.contributions(test.x[:1])
assert why.check().ok
strongest = why.top(5, output=answer)
figure, axes = plt.subplots(1, 6, figsize=(8, 1.8), layout="constrained")
axes[0].imshow(test.x[0].view(8, 8).numpy(), cmap="gray_r")
axes[0].set_title(f"called {answer}", fontsize=9)
for ax, sample, term in zip(axes[1:], strongest["center"], strongest["contribution"], strict=True):
    ax.imshow(train.x[sample].view(8, 8).numpy(), cmap="gray_r")
    ax.set_title(f"a {train.y[sample]}: {term:+.2f}", fontsize=9)
for ax in axes:
    ax.axis("off")

# %% [markdown]
# And without those five? The network that never saw them, in closed form: the one that a fit to the others gives. The
# terms above are exact shares of the answer, and large ones that nearly cancel. They are no forecast of what happens
# without a digit: the others make up for it.

# %%
gone = strongest["center"].tolist()
less = bundled.without(gone)
with torch.no_grad():
    before, after = float(bundled(test.x[:1])[0, answer]), float(less(test.x[:1])[0, answer])
total = strongest["contribution"].sum()
print(f"their terms add up to {total:.3f}; with them the answer is {before:.3f}, without them {after:.3f}")

stays = torch.ones(len(train.x), dtype=torch.bool)
stays[gone] = False
again = ks.fit(bundled.features, train.x[stays], columns[stays], ridge=bundled.ridge, intercept=True, progress=False)
with torch.no_grad():
    assert torch.allclose(less(test.x).double(), again(test.x).double(), atol=1e-3)

# %% [markdown]
# Left out one by one, and all at no other cost:

# %%
print(f"{right(bundled.leave_one_out(), train.y):.1%} of the training digits are told right by all the others")
assert right(bundled.leave_one_out(), train.y) > 0.97


# %% [markdown]
# ## An adapter in a transformer
#
# A small transformer reads a digit row by row, and has learned the digits up to 4. To learn the others too, everything
# is frozen but its head and one adapter after each layer: $x + \Psi \Phi(x) + b$ with fixed $\Phi$. It begins as the
# network that it was, to the last bit.

# %%
class Reader(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.rows, self.head = nn.Linear(8, width), nn.Linear(width, 10)
        self.place = nn.Parameter(torch.randn(8, width) / 4)
        self.body = nn.Sequential(*(nn.TransformerEncoderLayer(width, 2, 64, 0.0, batch_first=True) for _ in range(2)))

    def forward(self, x):
        return self.head(self.body(self.rows(x.view(-1, 8, 8)) + self.place).mean(1))


reader, low = Reader(), train.y < 5
learn(reader, reader.parameters(), 200, 3e-3, train.x[low], train.y[low])
injected = ks.nn.inject(reader, "body.*", features=8, train="head", inputs=train.x[:1])
print(injected)
with torch.no_grad():
    assert torch.equal(injected.model(test.x), reader(test.x))

# %%
head = copy.deepcopy(reader)
learn(head, head.head.parameters(), 200, 1e-2)
learn(injected.model, list(injected.parameters()), 200, 1e-2)
with torch.no_grad():
    found = {"as it was": right(reader(test.x), test.y), "head alone": right(head(test.x), test.y),
             "head and adapters": right(injected.model(test.x), test.y)}
print({name: f"{share:.1%}" for name, share in found.items()})
assert found["head and adapters"] > found["head alone"] > found["as it was"]

# %% [markdown]
# That is no proof that such adapters are better than others. On real text, with a transformer of width 128, they were
# not five times smaller than the usual ones at equal accuracy: `analysis/snnk/adapters.py`.
