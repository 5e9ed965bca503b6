r"""Scores of how well a network knows a point, to compare others with: all are larger for what is better known.

With logits z and p = softmax(z), penultimate features h (what goes into the last layer), training samples :math:`x_i`:

- max softmax :math:`\max_c p_c`; energy :math:`\log\sum_c e^{z_c}`;
- feature kNN :math:`-\|\hat h - \hat h_{(k)}\|`, minus the distance to the k-th nearest of the training samples, with
  features brought to length 1;
- Mahalanobis :math:`-\min_c (h - \mu_c)^T \Sigma^+ (h - \mu_c)`, with a covariance shared by the classes;
- GradNorm :math:`\|\partial\,\mathrm{KL}(u\,\|\,p)/\partial W\|_1` by the last layer's parameters, u uniform;
- pixel kNN :math:`-\|x - x_{(k)}\|`, of the raw inputs: the null, which needs no network at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The neighbour whose distance counts, in feature kNN and in pixel kNN.
NEIGHBOUR = 1

#: Rows of distances that are held at a time.
ROWS = 512


def max_softmax(logits: Tensor) -> Tensor:
    r""":math:`\max_c p_c`, with shape (q,); of one logit for two classes, of 0 and it.

    References:
        A Baseline for Detecting Misclassified and Out-of-Distribution Examples (Hendrycks and Gimpel, 2017).

    Example:
        >>> max_softmax(torch.tensor([[0.0, 0.0], [0.0, 50.0]]))
        tensor([0.5000, 1.0000])
    """
    return two_sided(logits).softmax(1).amax(1)


def energy(logits: Tensor) -> Tensor:
    r""":math:`\log\sum_c e^{z_c}`, the negative of the free energy, with shape (q,).

    References:
        Energy-based Out-of-distribution Detection (Liu et al., 2020).

    Example:
        >>> energy(torch.zeros(1, 4)).exp()
        tensor([4.])
    """
    return two_sided(logits).logsumexp(1)


def two_sided(logits: Tensor) -> Tensor:
    """Logits of each class; a single one is that of the second of two classes, and the first has 0."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def nearest(x: Tensor, samples: Tensor, k: int = NEIGHBOUR, normalised: bool = False) -> Tensor:
    """Minus the distance to the k-th nearest sample, with shape (q,).

    Args:
        x: The points, with shape (q, d).
        samples: With shape (n, d).
        k: Which neighbour; the farthest if there are fewer.
        normalised: Whether both are brought to length 1.

    References:
        Out-of-Distribution Detection with Deep Nearest Neighbors (Sun et al., 2022).

    Example:
        >>> nearest(torch.tensor([[0.0]]), torch.tensor([[3.0], [1.0]]), k=2)
        tensor([-3.])
    """
    if normalised:
        x, samples = (torch.nn.functional.normalize(t, dim=1) for t in (x, samples))
    # The plain formula: products of long vectors would lose what near ones differ by.
    found = [torch.cdist(part, samples, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(
        min(k, len(samples)), dim=1).values for part in x.split(ROWS)]
    return -torch.cat(found)


def mahalanobis(x: Tensor, samples: Tensor, classes: Tensor | None) -> Tensor:
    r""":math:`-\min_c (h - \mu_c)^T\Sigma^+(h - \mu_c)`, with shape (q,).

    Args:
        x: Features of the points, with shape (q, d).
        samples: Those of the training samples, with shape (n, d).
        classes: The class of each sample; without them there is one.

    References:
        A Simple Unified Framework for Detecting Out-of-Distribution Samples (Lee et al., 2018).

    Example:
        >>> mahalanobis(torch.tensor([[3.0]]), torch.tensor([[-1.0], [1.0]]), None)
        tensor([-9.])
    """
    known, places = torch.unique(torch.zeros(len(samples)) if classes is None else classes, return_inverse=True)
    means = torch.stack([samples[places == c].mean(0) for c in range(len(known))])
    spread = samples - means[places]
    inverse = torch.linalg.pinv(spread.T @ spread / len(samples), hermitian=True)
    gaps = [x - mean for mean in means]
    return -torch.stack([((gap @ inverse) * gap).sum(1) for gap in gaps]).amin(0)


def kl_from_uniform(logits: Tensor, _: Tensor) -> Tensor:
    r""":math:`\mathrm{KL}(u\,\|\,p)` but for a constant, with shape (n,): what GradNorm differentiates.

    References:
        On the Importance of Gradients for Detecting Distributional Shifts in the Wild (Huang et al., 2021).
    """
    return -two_sided(logits.reshape(len(logits), -1)).log_softmax(1).mean(1)
