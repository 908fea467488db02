"""Functions from a noise predictor to a noise predictor: guidance, and limits on the estimate of x_0.

They nest, and the outermost has the last word: `clip_x0(classifier_free(c, u, 3.0), schedule)` clips the guided
estimate, which is what samplers want; guiding two clipped predictors leaves the range again.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ddpm_path.gaussian import (
    AnyLevel,
    check_alike,
    check_answer,
    check_range,
    eps_from_x0,
    expand,
    two_answers,
    x0_from_eps,
)
from ddpm_path.losses import Network
from ddpm_path.samplers import Shift
from ddpm_path.schedule import EpsFn, Schedule

Classifier = Callable[[Tensor, Tensor], Tensor]
"""A noisy classifier: x (B, ...) and t (B,) to log p_t(class | x), (B, K)."""
ClassScore = Callable[[Tensor, Tensor], Tensor]
"""x (B, ...) and t (B,) to grad_x log p_t(label | x), shaped like x."""


def class_score(classifier: Classifier, labels: Tensor) -> ClassScore:
    """The gradient in x of the log-probability of each sample's label (B,), by autograd [Dhariwal 2021, sec. 4.1].

    The gradient of the batch's sum is each sample's own, so the classifier must not mix samples: no batch
    normalisation in training mode. Works inside samplers, where gradients are off. ValueError for a classifier that
    answers probabilities or scores that are not normalised, and for labels that it does not have.
    """

    def score(x: Tensor, t: Tensor) -> Tensor:
        check_alike(x)
        tracked = x.requires_grad and torch.is_grad_enabled()  # a likelihood asks for gradients of this one
        with torch.enable_grad():
            x = x if tracked else x.detach().requires_grad_()
            log_probs = _check_log_probs(classifier(x, t), x, labels)
            chosen = log_probs[torch.arange(len(x), device=x.device), labels.to(x.device)]
            return torch.autograd.grad(chosen.sum(), x, create_graph=tracked)[0]

    return score


def classifier_shift(score: ClassScore, scale: float) -> Shift:
    """For `ancestral`'s `shift`: the mean moves by scale * variance * class score at (x_t, t) [Dhariwal 2021, alg. 1].

    The derivation expands at the mean; the published code, and this, take the gradient at x_t.
    """
    check_range(-math.inf, scale=scale)

    def shift(x: Tensor, t: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        check_alike(x, mean=mean)
        return mean + scale * expand(var, x) * check_answer(score(x, t), x)

    return shift


def classifier_guided(eps_fn: EpsFn, score: ClassScore, schedule: Schedule, scale: float) -> EpsFn:
    """For every sampler: eps - scale * std * class score, so that Bayes' rule holds at scale 1 [Dhariwal 2021, alg. 2].

    eps_fn may know the label already: scale then adds to that.
    """
    check_range(-math.inf, scale=scale)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        eps, grad = (check_answer(f(x, t), x) for f in (eps_fn, score))
        return eps - scale * expand(schedule(t)[1], x) * grad

    return guided


def classifier_free(cond: EpsFn, uncond: EpsFn, scale: float) -> EpsFn:
    """uncond + scale * (cond - uncond), 1 being the conditional model, 0 the other [Ho & Salimans 2022, eq. 6].

    The paper's w counts from the conditional model: see `from_paper_w`. Two network calls; exactly uncond's answer
    at scale 0, cond's at 1, and their common answer where they agree, at any scale.
    """
    check_range(-math.inf, scale=scale)
    return lambda x, t: _lerp(check_answer(uncond(x, t), x), check_answer(cond(x, t), x), scale)


def from_paper_w(w: float) -> float:
    """The scale of the paper's w in (1 + w) eps_c - w eps_u, whose 0 is the conditional model [ibid.]."""
    check_range(-math.inf, w=w)
    return 1 + w


def classifier_free_batched(net: Network, condition: Tensor, null: Tensor, scale: float) -> EpsFn:
    """As `classifier_free`, by one call at twice the batch: both conditions are (B, ...), labels say.

    ValueError for conditions of two shapes, or of another number than x.
    """
    check_range(-math.inf, scale=scale)
    if condition.shape != null.shape or condition.ndim == 0:
        raise ValueError(
            f"condition {tuple(condition.shape)} and null {tuple(null.shape)} differ: give each sample its own null, "
            "torch.full_like(labels, classes) for labels"
        )
    both = torch.cat([condition, null])

    def guided(x: Tensor, t: Tensor) -> Tensor:
        if len(x) != len(condition):
            raise ValueError(f"{len(condition)} conditions for {len(x)} samples: one each, please")
        twice = torch.cat([x, x])
        cond, uncond = check_answer(net(twice, t.flatten().repeat(2), both), twice).chunk(2)
        return _lerp(uncond, cond, scale)

    return guided


def guided_network(net: Network, null: int, scale: float) -> Network:
    """A network of classes that guides itself, by `classifier_free_batched` at each call; `null` is its null label.

    ValueError if it is asked without a label.
    """

    def guided(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            raise ValueError("guidance is towards a label: give one for each sample")
        return classifier_free_batched(net, label, torch.full_like(label, null), scale)(x, t)

    return guided


def within(guided: EpsFn, plain: EpsFn, schedule: Schedule, low: float, high: float) -> EpsFn:
    """Guidance where std / scale lies in [low, high] only, and no second network call elsewhere [Kynkaanniemi 2024].

    All samples of a batch are at one time, as samplers have them. ValueError unless 0 <= low < high.
    """
    if not 0 <= low < high:
        raise ValueError(f"an interval of std / scale runs from low to high, 0 <= low < high; got {low} to {high}")

    def limited(x: Tensor, t: Tensor) -> Tensor:
        scale, std = schedule(t)
        return (guided if bool(((low * scale <= std) & (std <= high * scale)).all()) else plain)(x, t)

    return limited


def clip_x0(eps_fn: EpsFn, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> EpsFn:
    """Hold the estimate of x_0 inside the data's range, in sampling, as DDPM's code does [Ho 2020, code].

    At the noisiest levels x_0 is a small difference divided by a tiny scale: unclipped, a slightly wrong
    eps throws it far out of range. Imagen calls this static thresholding. ValueError unless low < high.
    """
    check_range(-math.inf, low=low, high=high)
    if not low < high:
        raise ValueError(f"x_0 is held from low to high; got {low} and {high}")
    return _on_x0(eps_fn, schedule, lambda x0: x0.clamp(low, high))


def threshold_x0(eps_fn: EpsFn, schedule: Schedule, percentile: float = 0.995) -> EpsFn:
    """Hold the estimate of x_0 in range by `dynamic_threshold` [Saharia 2022, sec. 2.3].

    Large guidance scales push many pixels beyond the range, and clipping saturates them all. ValueError for a
    percentile outside (0, 1].
    """
    _check_percentile(percentile)
    return _on_x0(eps_fn, schedule, lambda x0: dynamic_threshold(x0, percentile))


def dynamic_threshold(x0: Tensor, percentile: float) -> Tensor:
    """Each sample of x0 (B, ...) clipped to s, its own percentile of |x_0|, and divided by s [Saharia 2022, sec. 2.3].

    s is at least 1: a sample within [-1, 1] is left alone. ValueError for a percentile outside (0, 1].
    """
    _check_percentile(percentile)
    check_alike(x0)
    size = x0.reshape(len(x0), -1).abs().to(torch.promote_types(x0.dtype, torch.float32))  # half has no quantile
    s = expand(torch.quantile(size, percentile, dim=1).clamp(min=1), x0)
    return x0.clamp(-s, s) / s


def _check_percentile(percentile: float) -> None:
    if not 0 < percentile <= 1:
        raise ValueError(f"a percentile is a share of the pixels in (0, 1], 0.995 say; got {percentile}")


def _lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """torch.lerp; but that one's end - start overflows between numbers of opposite sign near the largest.

    Then it answers 0 * inf at the weights 0 and 1. Half of the difference never overflows.
    """
    half = torch.sub(end / 2, start, alpha=0.5)
    if weight < 0.5:
        return torch.add(start, half, alpha=2 * weight)
    return torch.sub(end, half, alpha=2 * (1 - weight))


def eps_part(net: EpsFn) -> EpsFn:
    """The noise predictor in a network with a learned variance, (B, 2 C, ...): what every other sampler takes."""
    return lambda x, t: two_answers(net(x, t), x)[0]


def on_eps(net: EpsFn, wrapper: Callable[[EpsFn], EpsFn]) -> EpsFn:
    """A network with a learned variance whose eps went through any function of this module; its variance is kept.

    wrapper: from a noise predictor to a noise predictor, `lambda e: clip_x0(classifier_free(e, u, 3.0), schedule)`,
    say, with u the `eps_part` of the unconditional network: the variance is then the conditional one's, as in
    Nichol 2022's code. The network is called once where the wrapper asks at the x and t that it was given, anew
    elsewhere.
    """

    def wrapped(x: Tensor, t: Tensor) -> Tensor:
        eps, o = two_answers(net(x, t), x)
        elsewhere = eps_part(net)
        changed = wrapper(lambda y, s: eps if y is x and s is t else elsewhere(y, s))(x, t)
        return torch.cat([check_answer(changed, x), o], dim=1)

    return wrapped


def _on_x0(eps_fn: EpsFn, schedule: Schedule, change: Callable[[Tensor], Tensor]) -> EpsFn:
    def changed(x: Tensor, t: Tensor) -> Tensor:
        now: AnyLevel = schedule(t)
        return eps_from_x0(x, change(x0_from_eps(x, check_answer(eps_fn(x, t), x), now)), now)

    return changed


def _check_log_probs(answer: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    if answer.ndim != 2 or len(answer) != len(x) or labels.shape != x.shape[:1]:
        raise ValueError(
            f"for x {tuple(x.shape)} a classifier answers (B, classes) and labels are (B,); got {tuple(answer.shape)} "
            f"and {tuple(labels.shape)}"
        )
    if not bool((answer.detach().logsumexp(1).abs() < 1e-3).all()):
        raise ValueError("a classifier answers log-probabilities here: end it in log_softmax(dim=1)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= answer.shape[1]:
        raise ValueError(f"labels run from {low} to {high}; the classifier knows 0 to {answer.shape[1] - 1}")
    return answer
