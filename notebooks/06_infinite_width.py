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
# # Networks of infinite width are kernels
#
# Make every layer of a network wider and wider, with random weights. Its outputs become a Gaussian process, whose
# covariance is a kernel, the **NNGP**. Train it by gradients, and it moves by another kernel, the **NTK**, which stays as
# it is. Both are computed layer by layer, without any network. So a network of infinite width can be fitted exactly: it is
# kernel ridge regression.
#
# In a few minutes, on handwritten digits.

# %%
import matplotlib.pyplot as plt
import torch

import kernelscope as ks

infinite = ks.kernels.infinite
data, held = ks.data.digits("train"), ks.data.digits("test")
x, y, z, t = data.x.double(), data.y, held.x.double(), held.y

# %% [markdown]
# ## A network, and its two kernels
#
# Layers are written one after the other. With weights of variance 2 over the number of inputs, ReLU keeps the size of what
# goes through.

# %%
wide = 2**0.5
net = infinite.Serial(infinite.Dense(wide), infinite.ReLU(), infinite.Dense(wide), infinite.ReLU(), infinite.Dense(wide))
both = net.both(x[:200])
print(net)
assert torch.allclose(both.nngp, both.nngp.T)
assert (both.ntk.diagonal() > both.nngp.diagonal()).all()

# %% [markdown]
# ## Finite networks come near to it
#
# The same architecture at a finite width, with random weights: the covariance of its outputs over many draws is the NNGP,
# and the product of its gradients the NTK. How far one draw is off falls as one over the root of the width.

# %%
few = x[:20]
exact = net.ntk(few)
widths, off = [16, 64, 256, 1024], []
for width in widths:
    gaps = []
    for seed in range(4):
        finite = net.torch(width, inputs=64, seed=seed).double()
        gaps.append(float((ks.kernels.Tangent(finite)(few).detach() - exact).norm() / exact.norm()))
    off.append(sum(gaps) / len(gaps))
print({width: round(gap, 3) for width, gap in zip(widths, off)})
slope = (torch.tensor(off[0]) / off[-1]).log() / (torch.tensor(widths[-1]) / widths[0]).log()
print(f"the gap falls as the width to the power {-float(slope):.2f}")
assert 0.3 < slope < 0.7

figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.loglog(widths, off, marker="o")
ax.loglog(widths, [off[0] * (widths[0] / width) ** 0.5 for width in widths], linestyle="--", color="grey")
ax.set_xlabel("width")
ax.set_ylabel("gap of the tangent kernel");

# %% [markdown]
# ## A machine on it
#
# `ks.fit` solves for the coefficients. Classes are columns of 0 and 1, and the class that is told is the largest value.

# %%
columns = torch.nn.functional.one_hot(y).double()
machine = ks.fit(net.ntk, x, columns, ridge=1e-6, intercept=True, progress=False)
right = float((machine(z).argmax(1) == t).double().mean())
print(machine, f"{right:.1%} of the test digits are told right", sep="\n")
assert right > 0.96

# %% [markdown]
# The machine can be asked why: its value is a sum of one term for each training digit.

# %%
why = machine.contributions(z[:1])
assert torch.allclose(why.terms.sum(-1) + why.intercept, machine(z[:1]))

# %% [markdown]
# ## How fast does its error fall with data?
#
# Digits are taken in several random orders, and for each number of them the machine is fitted, with a ridge that is chosen
# by leaving samples out. In logarithms the error is about a line; its slope is the exponent. What needs no network stands
# beside it: a kernel of distances, and the nearest training digit.

# %%
def nearest(x, y, z):
    return y[torch.cdist(z, x).argmin(1)]


curves = ks.learning_curves({"NNGP": net.nngp, "NTK": net.ntk, "Laplacian": ks.kernels.Laplacian(), "nearest": nearest},
                            (x, y), (z, t), samples=[75, 150, 300, 600], ridge=[1e-6, 1e-4, 1e-2], repeats=3)
print(curves)
assert curves.check().ok
assert curves.exponent("NNGP").low > 0.3
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
curves.plot(ax);

# %% [markdown]
# Two kernels are compared on the same digits, so that a difference shows that is smaller than either error bar.

# %%
print("error of the NTK over that of the NNGP:", curves.ratio("NTK", "NNGP"))
print("error of the NTK over that of the Laplacian:", curves.ratio("NTK", "Laplacian"))
curves.laws()[["kernel", "exponent", "low", "high"]].round(2)
