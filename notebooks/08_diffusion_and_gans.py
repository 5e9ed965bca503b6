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
# # Diffusion and GANs
#
# Two ways to learn to draw digits. A denoiser learns to take noise off, and draws by doing so in stages. A GAN has a
# generator, and a critic that tells it what to change. Recorded while they train, both are ordinary runs: whatever
# they learned is an exact sum over the training images.
#
# In a minute, on handwritten digits, with small models that draw badly.

# %%
import matplotlib.pyplot as plt
import torch

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
x, held_out = train.x.double() * 2 - 1, test.x.double() * 2 - 1
source = torch.Generator().manual_seed(0)

# %%
denoiser = ks.generative.train_diffusion(x, width=48, steps=300, dtype=x.dtype)
game = ks.generative.train_gan(x, width=40, steps=300, dtype=x.dtype)
print(denoiser, game, sep="\n")

# %% [markdown]
# ## A generated digit, split exactly
#
# The sampler goes down the noise levels. At each stage the denoised point is what the untrained network made of it,
# and what each training image added, at each noise level that it was shown at. Nothing is left over.

# %%
z = torch.randn(1, 64, generator=source, dtype=x.dtype)
why = ks.generative.explain_diffusion(denoiser, z, levels=ks.generative.schedule(10), directions="displacement",
                                      labels=train.y, held_out=held_out)
print(why)
assert why.check().ok
assert max(why.completeness()) < 1e-10
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
why.plot(ax);

# %% [markdown]
# These are contributions: accounting along this run. What images and noise levels add undoes itself in part, more than
# tenfold at some stages; there no percentages are given, but ranks beside the mean image.

# %%
print(f"the terms are up to {float(why.cancellation('image and bin').max()):.0f} times as large as their sum")
assert float(why.cancellation("image and bin").max()) > 10
print(why.top(3), why.verdict(), sep="\n")
assert not why.memorised()

# %% [markdown]
# The null needs no network. The best denoiser for these very images is a weighted mean of them, and its split is
# closed. What some images gain at a stage the others lose, and in the end one image is given back: a copy.

# %%
closed = ks.generative.explain_optimal(x, z, levels=ks.generative.schedule(10))
print(closed)
assert closed.stage_contributions().sum(-1).abs().max() < 1e-14
assert float(closed.concentration().n_eff[0, -1]) < 1.5

# %% [markdown]
# ## The critic is a witness
#
# A critic's score is a sum over the real images, their penalties, and the generated points it was shown. The two sides
# are large and nearly cancel. What they leave tells where real and generated differ, and is nobody's percentage.

# %%
generated = game.generated(torch.randn(12, 16, generator=source, dtype=x.dtype))
seen = ks.generative.witness(game, torch.cat([held_out[:12], generated]), labels=train.y.tolist())
print(seen)
assert seen.check().ok
assert seen.epsilon2 < 1e-10
assert seen.kappa > 10
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
seen.plot(ax);

# %% [markdown]
# ## Is a critic a denoiser?
#
# Both can say at one point which way to go: the critic by its slope, the denoiser by its step. Two denoisers mostly
# agree, also where one is a closed form. The critic's slope does not point where the denoiser steps. Beside it stands
# what the untrained critic and random directions have.

# %%
bridge = ks.generative.bridge(denoiser, game, held_out=held_out, count=120)
print(bridge)
own, two = bridge.mean("critic, denoiser")[0], bridge.mean("denoiser, Wiener")[0]
assert bool((own < two / 2).all())
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
bridge.plot(ax);

# %% [markdown]
# The whole comparison, with larger models, five seeds and all nulls, is made by `analysis/diffusion_vs_gan.py`.
