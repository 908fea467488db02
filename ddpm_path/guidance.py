"""Functions from a noise predictor to a noise predictor."""

from torch import Tensor

from ddpm_path.gaussian import eps_from_x0, x0_from_eps
from ddpm_path.schedule import EpsFn, Schedule


def clip_x0(eps_fn: EpsFn, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> EpsFn:
    """Hold the estimate of x_0 inside the data's range, in sampling, as DDPM's code does [Ho 2020, code].

    At the noisiest levels x_0 is a small difference divided by a tiny scale: unclipped, a slightly wrong
    eps throws it far out of range.
    """

    def clipped(x: Tensor, t: Tensor) -> Tensor:
        now = schedule(t)
        return eps_from_x0(x, x0_from_eps(x, eps_fn(x, t), now).clamp(low, high), now)

    return clipped
