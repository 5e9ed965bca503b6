r"""Denoisers in closed form: what the training points alone say of a noisy one.

A trained denoiser lies somewhere between them. The *optimal* one is the mean of the training points given the noisy
point, and can only give back training points; the *Wiener* denoiser knows their mean and covariance alone; the *local*
ones know the patches around each pixel. Each is called as ``denoiser(y, sigma)`` with noisy points of shape (q, \*) and
noise levels of shape (q,), and has ``jacobian(y, sigma)`` with shape (q, d, d).
"""

from .local import EquivariantLocalDenoiser, LocalDenoiser
from .optimal import OptimalDenoiser
from .wiener import WienerDenoiser

__all__ = ["EquivariantLocalDenoiser", "LocalDenoiser", "OptimalDenoiser", "WienerDenoiser"]
