"""Focal loss of hard and soft labels y in 0..1, as functions of logits and labels.

Each term of the cross entropy is multiplied by |y - p|^gamma. With a label of 0 or 1, |y - p| is 1 - p_t, which gives
Lin et al. 2017, eq. 4; with fractional labels, it is the quality focal loss (Li et al. 2020, eq. 3), which is 0 at
p = y. A softmax over two classes equals the sigmoid of the difference of their logits, for any labels.

The functions named `_terms` can be differentiated any number of times. The others compute the same values and first
derivatives several times faster, without recording operations. All are finite for finite logits. Where y - p rounds to
0, the derivative of its power is taken as 0: for gamma < 1 it is infinite on both sides, with opposite signs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet.losses.chunking import working_type
from retinanet.losses.softmax_focal import other_logits


def binary_focal_terms(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute |y - p|^gamma (-y log(p) - (1 - y) log(1 - p)) elementwise, for p = sigmoid(logit)."""
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    is_one, is_zero = labels == 1, labels == 0
    # A product of 0 and an infinite logarithm would be NaN.
    entropy = -torch.where(is_zero, 0, labels * log_p) - torch.where(is_one, 0, (1 - labels) * log_q)
    # The obvious y - p would round a small error to 0.
    distance = (labels * log_q.exp() - (1 - labels) * log_p.exp()).abs()
    soft = _power(distance, gamma)
    # For hard labels, the logarithm of the distance is known, and stays finite where the distance itself underflows.
    hard = torch.exp(gamma * torch.where(is_one, log_q, log_p))
    return torch.where(is_one | is_zero, hard, soft) * entropy


def binary_focal_values(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute the values of `binary_focal_terms`."""
    x, y, _ = _reflected(logits, labels)
    p, _, softplus = _sigmoid(x)
    expected = x.mul_(y).nan_to_num_(nan=0.0, neginf=-math.inf)  # 0 times an infinite logit is 0
    return softplus.sub_(expected).mul_(p.sub_(y).abs_().pow_(gamma))


def binary_focal_derivatives(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute the derivatives of `binary_focal_terms` with respect to the logits.

    With e = p - y and the cross entropy H = softplus(x) - x y, they are |e|^gamma (e + gamma p (1 - p) H / e).
    """
    x, y, was_positive = _reflected(logits, labels)
    x.clamp_(min=torch.finfo(x.dtype).min)  # 0 times infinity would be NaN
    p, q, softplus = _sigmoid(x)
    entropy = softplus.addcmul_(x, y, value=-1)
    error = p - y
    # Divide first: p H would underflow where p / e does not.
    result = _ratio(p, error).mul_(q).mul_(entropy).mul_(gamma).add_(error)
    return result.mul_(error.abs_().pow_(gamma)).mul_(was_positive.mul_(-2).add_(1))


def softmax_focal_terms(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute -y |y - p|^gamma log(p) for each class, for p = softmax(logits): (n, C, s), (n, C, s) -> (n, C, s)."""
    log_p, p, q = _softmax(logits)
    terms = labels * _power((labels * q - (1 - labels) * p).abs(), gamma) * log_p
    return -torch.where(labels == 0, 0, terms)


def softmax_focal_values(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute the values of `softmax_focal_terms`."""
    log_p, p, q = _softmax(logits)
    distance = torch.sub(labels, 1).mul_(p).addcmul_(labels, q).abs_()
    # 0 times the infinite log(p) of an infinite logit is 0.
    log_p = log_p.mul_(labels).nan_to_num_(nan=0.0, neginf=-math.inf)
    return distance.pow_(gamma).mul_(log_p).neg_()


def softmax_focal_gradient(logits: Tensor, labels: Tensor, gamma: float, scale: Tensor) -> Tensor:
    """Compute the gradient of the sum of `softmax_focal_terms` times a scale that broadcasts to (n, C, s).

    With e = y - p, the derivative of a term with respect to its log(p) is -y |e|^gamma (1 - gamma p log(p) / e).
    """
    log_p, p, q = _softmax(logits)
    error = torch.sub(labels, 1).mul_(p).addcmul_(labels, q)
    by_log_p = _ratio(p, error).mul_(log_p).mul_(gamma).sub_(1)
    by_log_p.mul_(error.abs_().pow_(gamma)).mul_(labels).mul_(scale)
    by_log_p.nan_to_num_(nan=0.0)  # 0 times the infinite log(p) of an infinite logit
    of_others = by_log_p.sum(1, keepdim=True) - by_log_p
    return by_log_p.mul_(q).sub_(p.mul_(of_others))


def softmax_margin_terms(rows: Tensor, index: Tensor, gamma: float) -> Tensor:
    """Compute (1 - p_c)^gamma (-log p_c) of the true class c: (R, C), (R,) int64 -> (R,).

    It is the sigmoid's loss of z = logsumexp(other logits) - target logit, with label 0 (see `softmax_focal.py`).
    """
    column = index[:, None]
    target = rows.to(working_type(rows)).gather(1, column).squeeze(1)
    z = other_logits(rows, column).logsumexp(1) - target
    return -torch.exp(gamma * F.logsigmoid(z)) * F.logsigmoid(-z)


def _reflected(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Negate logits x above 0, and replace their labels y with 1 - y; also return where, as 0 and 1.

    The loss stays the same. Afterwards p <= 1/2, so that p and 1 - p are both precise.
    """
    was_positive = logits.sign().clamp_(min=0)  # several times faster than converting a comparison
    return logits.abs().neg_(), (labels - was_positive).abs_(), was_positive


def _sigmoid(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute p = sigmoid(x), 1 - p and softplus(x) for x <= 0, each with full relative precision."""
    p = torch.sigmoid(x)
    q = 1 - p
    # softplus(x) = -log(q). Where q is close to 1, its rounding cancels in log(q) / (q - 1), which is 1 in the limit.
    # softplus and log1p take up to ten times as long as log on some CPUs.
    ratio = q.log().div_(q - 1).nan_to_num_(nan=1.0)
    return p, q, ratio.mul_(p)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute log(p), p and 1 - p for p = softmax(logits) over dimension 1, each with full relative precision."""
    if logits.shape[2] == 1:  # several times faster over the last dimension
        log_p = logits.squeeze(2).log_softmax(1).unsqueeze(2)
    else:
        log_p = logits.log_softmax(1)
    p = log_p.exp()
    # For the most probable class, compute 1 - p and log(p) from the other classes: p itself may round to 1.
    top = logits.argmax(1, keepdim=True)
    others = p.scatter(1, top, 0).sum(1, keepdim=True)
    return log_p.scatter(1, top, torch.log1p(-others)), p, (1 - p).scatter(1, top, others)


def _power(distance: Tensor, gamma: float) -> Tensor:
    """distance^gamma, with derivative 0 where the distance is 0 or subnormal."""
    positive = distance >= torch.finfo(distance.dtype).tiny
    return torch.where(positive, torch.where(positive, distance, 1).pow(gamma), 0)


def _ratio(values: Tensor, errors: Tensor) -> Tensor:
    """Divide; the result is 0 where the error is 0, as in `_power`."""
    return (values / errors).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
