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
# # Kernel machines
#
# A kernel machine is a sum with one term for each **center** $z_j$, a point it is anchored at:
#
# $$f(x) = \sum_j k(x, z_j)\, \alpha_j + b$$
#
# In five minutes: fit one to handwritten digits, choose its ridge, ask it why it answers as it does, choose its size,
# stop a fit and go on with it, and keep the machine.

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import one_hot

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
x, y = train.x.double(), one_hot(train.y).double()
held_out = torch.arange(len(x)) % 4 == 0                  # to choose by
validation = x[held_out], y[held_out]
x, y, classes = x[~held_out], y[~held_out], train.y[~held_out]
k = ks.kernels.Laplacian()                                # the bandwidth: the median distance of the points
print(k, k.fitted(x))

# %% [markdown]
# ## Fit
#
# `ks.fit` says first what it will do, and why: the solver that is surest among those that fit into memory, unless
# another has much less to do. Several ridges $\lambda$ are fitted in the same passes over the data; the machine is the
# one with the smallest validation error, and the others stay at hand.

# %%
ridges = [10.0**-i for i in range(1, 8)]
machine = ks.fit(k, x, y, centers=500, ridge=ridges, intercept=True, validation=validation)
right = (machine(test.x.double()).argmax(1) == test.y).double().mean().item()

assert right > 0.95
assert machine.fitting.ridge == ridges[int(machine.fitting.validation.argmin())]
print(f"{machine}\nright on {right:.1%} of the digits it never saw")

# %%
figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
machine.fitting.plot(ax=ax)
smooth = machine.at(1e-1)                                 # the machine of another ridge, from the same passes

assert smooth.fitting.ridge == 1e-1
assert smooth.fitting.validation.equal(machine.fitting.validation)
machine.fitting.to_frame()

# %% [markdown]
# What was found is what the definition says. The coefficients of free centers minimise
# $\frac1n \sum_i |f(x_i) - y_i|^2 + \lambda \|f\|_H^2$, so at them the gradient of that is nought, up to rounding:

# %%
K_xz, K_zz = machine.kernel(x, machine.centers), machine.kernel(machine.centers)
residual = K_xz @ machine.coefficients + machine.intercept - y
gradient = K_xz.T @ residual / len(x) + machine.fitting.ridge * (K_zz @ machine.coefficients)

assert gradient.abs().max() < 1e-8
assert residual.mean(0).abs().max() < 1e-8                # of the intercept

# %% [markdown]
# ## Ask why
#
# Every term belongs to one center, so an answer can be taken apart. The terms and the intercept add up to it, to the
# last digits. Here is the digit that the machine finds hardest, and what spoke for the class it chose.

# %%
answers = machine(test.x.double())
two = answers.topk(2).values
hardest = int((two[:, 0] - two[:, 1]).argmin())
chosen = int(answers[hardest].argmax())
why = machine.contributions(test.x[hardest:hardest + 1].double())

assert why.check().ok
assert torch.allclose(why.terms.sum(-1) + why.intercept, answers[hardest])
why

# %%
top = why.top(7, output=chosen)
places = [int((x == machine.centers[j]).all(1).nonzero()[0, 0]) for j in top.center]   # centers are training digits
figure, axes = plt.subplots(1, 8, figsize=(10, 1.8), layout="constrained")
pictures = [(test.x[hardest], f"a {test.y[hardest]}", "#1b1d22")]
for i, term in zip(places, top.contribution, strict=True):
    sign, colour = ("▲", "#0072b2") if term > 0 else ("▼", "#b8480a")
    pictures.append((x[i], f"{sign} {classes[i]}: {abs(term):.2f}", colour))
for ax, (image, label, colour) in zip(axes, pictures, strict=True):
    ax.imshow(image.reshape(8, 8).numpy(), cmap="gray_r")
    ax.set_title(label, color=colour, fontsize=10)
    ax.axis("off")

assert set(top.center) <= set(range(len(machine)))
figure.suptitle(f"The largest terms for the answer “{chosen}”", x=0.01, ha="left", weight="bold");

# %% [markdown]
# The same as bars, with all other centers as one of them:

# %%
figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
why.plot(output=chosen, ax=ax);

# %% [markdown]
# ## A size of one's choice
#
# The number of centers is the size of the machine: memory and time grow with it, and so does what it can say.

# %%
sizes = (25, 50, 100, 200, 400)
sized = [ks.fit(k, x, y, centers=p, ridge=machine.fitting.ridge, intercept=True, validation=validation, progress=False)
         for p in sizes]
errors = [float(each.fitting.validation[0]) for each in sized]

assert errors == sorted(errors, reverse=True)
figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
ax.loglog(sizes, errors, "o-", color="#0072b2")
ax.set_xlabel("centers")
ax.set_ylabel("validation error")
ax.set_title(f"From {sizes[0]} to {sizes[-1]} centers the error falls {errors[0] / errors[-1]:.1f} times", loc="left",
             weight="bold");

# %% [markdown]
# ## Stop, and go on
#
# With `checkpoint=`, a folder, a fit that takes hours can be stopped by Ctrl-C or by a power cut. The same call goes on
# from there, and ends at the same coefficients, bit for bit; a call with other data is refused. Here a kernel presses
# Ctrl-C in the middle of a pass.

# %%
class StopAfter(ks.kernels.Laplacian):
    """A kernel that presses Ctrl-C."""

    presses = True

    def __call__(self, x, z=None):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 12 and StopAfter.presses:
            raise KeyboardInterrupt
        return super().__call__(x, z)


solver = ks.solvers.ConjugateGradient("full", tolerance=1e-12)
settings = {"centers": 200, "ridge": 1e-4, "solver": solver, "memory": "4MB", "progress": False}
try:
    ks.fit(StopAfter(bandwidth=3.0), x, y, checkpoint="checkpoint", **settings)
except KeyboardInterrupt as stop:
    stopped = str(stop)
StopAfter.presses = False
resumed = ks.fit(StopAfter(bandwidth=3.0), x, y, checkpoint="checkpoint", **settings)

assert torch.equal(resumed.coefficients, ks.fit(StopAfter(bandwidth=3.0), x, y, **settings).coefficients)
print(stopped)

# %%
try:
    ks.fit(StopAfter(bandwidth=3.0), x, -y, checkpoint="checkpoint", **settings)
except ks.errors.DataError as refusal:
    refused = str(refusal)

assert "the targets" in refused
print(refused)

# %% [markdown]
# ## Keep it
#
# A machine is kept as plain numbers and opened without running any code from the file. Machines of one kernel can be
# added and scaled: here is the mean of two that were given other centers.

# %%
machine.save("digits")
found = ks.KernelMachine.load("digits")
other = ks.fit(machine.kernel, x, y, centers=500, ridge=machine.fitting.ridge, intercept=True, seed=1, progress=False)
mean = (machine + other) / 2

assert torch.equal(found(test.x.double()), machine(test.x.double()))
assert torch.allclose(mean(test.x.double()), (machine(test.x.double()) + other(test.x.double())) / 2)
print(found, found.plan, mean, sep="\n")

# %% [markdown]
# **What this does not say.** A term is a share of the answer, and no statement of what the machine would answer if that
# center had never been there: the others would have other coefficients then. And terms of a small ridge may be large
# and cancel; what is close together is told apart by differences.
