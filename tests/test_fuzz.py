"""Every public callable of the mathematics, asked anything: a finite answer, or an error of our own that says why.

Callables and their arguments are found by inspection; `LEGAL` says by annotation and name what an argument is like.
Legal arguments must be answered, with finite numbers. Then one argument is bent: an item more or none, a dimension
missing, whole numbers for floats, zero, NaN, a grid that rises. Each answer is then finite still, or the error is one
that a `raise` of this package's own made: nothing surfaces from torch or Python's arithmetic. Two batches of different
sizes are never answered. NaN or infinity in a parameter (a time, eta, a level) is an error; in a tensor of data it may
flow through, since to look for it at every step would cost more than the step. A number too large for float64, a type
other than the annotated, and memory that is not there are no part of this. DDPM_PATH_FUZZ multiplies the examples.
"""

import ast
import importlib
import itertools
import math
import os
import random
import traceback
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ddpm_path import classifier, convolution, early, exact, gaussian, losses, samplers  # isort: skip
from ddpm_path import schedule, sde, segmentation, unet, vae  # isort: skip
from ddpm_path.__main__ import main
from ddpm_path.lab import doctor, evaluation, making, metrics, runner

HOME = Path(schedule.__file__).parent
EXAMPLES = int(10 * float(os.environ.get("DDPM_PATH_FUZZ", "1")))
CHAIN = schedule.Discrete.from_betas(schedule.linear_betas(40, 2e-3, 0.4))
CONTINUOUS = [schedule.VP(), schedule.SubVP(), schedule.VE()]
ON = [
    ("early.*", [CHAIN]), ("schedule.Disc*", [CHAIN]), ("losses.[blh]*_*", [CHAIN]), ("losses.hybrid", [CHAIN]),
    ("losses.LossH*", [CHAIN]), ("losses.chain_mean", [CHAIN]), ("losses.prior_term", CONTINUOUS[:2]),
    ("sde.ancestral_step", [CHAIN, *CONTINUOUS]), ("sde.*", CONTINUOUS), ("*", [CHAIN, *CONTINUOUS]),
]  # fmt: skip


class World:
    """What the arguments of one call share: a schedule, a shape, times t and s < t of it."""

    def __init__(self, name: str, seed: int) -> None:
        self.rng, self.generator = random.Random(seed), seeded(seed)
        self.on = self.one(*next(on for pattern, on in ON if fnmatchcase(name, pattern)))
        self.shape = (3, *self.one((2,), (1,), (2, 2), (1, 4, 4)))
        low, high = (2, 40) if self.on is CHAIN else (0.01, 1.0)
        self.s, self.t = sorted(self.between(low, high) for _ in range(2))
        if self.on is CHAIN:
            self.s, self.t = int(self.s), int(self.t) + 1

    def one(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def between(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def rand(self, *shape: int, low: float = -2.0, high: float = 2.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def like(self, low: float = -2.0, high: float = 2.0) -> Tensor:
        return self.rand(*self.shape, low=low, high=high)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def times(self, t: float) -> Tensor:
        return torch.full((3,), t, dtype=torch.float64)

    def level(self, t: float) -> Any:
        scale, std = self.on(t)
        return self.one((scale, std), (float(scale), float(std)), self.on(self.times(t)))


def between(low: float, high: float) -> Callable[[World], Any]:
    return lambda w: w.between(low, high)


def count(low: int, high: int) -> Callable[[World], Any]:
    return lambda w: w.rng.randint(low, high)


def always(value: Any) -> Callable[[World], Any]:
    return lambda w: value


def rand(*shape: int, low: float = -2.0, high: float = 2.0) -> Callable[[World], Any]:
    return lambda w: w.rand(*shape, low=low, high=high)


def bits(*shape: int) -> Callable[[World], Any]:
    return lambda w: w.whole(0, 2, *shape).double()


def network(x: Tensor, t: Tensor, label: Any = None) -> Tensor:
    return torch.sin(3 * x)


def learned(x: Tensor, t: Tensor, label: Any = None) -> Tensor:
    return torch.cat([0.9 * x, torch.tanh(x)], min(1, x.ndim - 1))


torch.manual_seed(0)
PLANE = exact.isotropic_mixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], 0.3)
LINE = exact.isotropic_mixture([0.3, 0.7], [[-1.0], [1.0]], 0.3)
BITS = early.Binomial(early.fractional_betas(6))
PCA = vae.LinearGaussian(torch.tensor([[1.0, 0.5], [0.2, -1.0], [0.3, 0.1]]).double(), torch.zeros(3).double(), 0.4)
SELF: dict[str, Any] = {
    "schedule.Discrete": CHAIN, "schedule.VP": CONTINUOUS[0], "schedule.SubVP": CONTINUOUS[1],
    "schedule.VE": CONTINUOUS[2], "exact.GaussianMixture": PLANE, "exact.GaussianMixture.cdf": LINE,
    "exact.GaussianMixture.quantile": LINE, "early.Binomial": BITS, "vae.LinearGaussian": PCA,
    "early.StepwiseRBF": early.StepwiseRBF(40).double(), "early.StepwiseMLP": early.StepwiseMLP(6, 4, 3, 5, 1).double(),
    "vae.BernoulliVAE": vae.BernoulliVAE(6, 2, 5).double(),
    "classifier.NoisyClassifier": classifier.NoisyClassifier(2, 3, 8, [8, 8], head_width=4, groups=4).double(),
    "unet.UNet": unet.UNet(2, [8, 8], head_width=4, classes=3, groups=4).double(),
    "exact.FiniteData": exact.FiniteData(torch.rand(5, 1, 2).double(), 2), "losses.LossHistory": losses.LossHistory(40),
    "segmentation.FCN": segmentation.FCN(2, 3, 8, (4,) * 3, (1,) * 3, 5, 2, 20).double().eval(),
    "segmentation.UNet2015": segmentation.UNet2015(1, 2, 2, 1).double().eval(),
}  # fmt: skip

# The first line that fits "module.name argument: annotation" says what is legal.
LEGAL: list[tuple[str, Callable[[World], Any]]] = [
    ("*torch.Generator*", lambda w: w.generator),
    # convolution and segmentation
    ("convolution.* size: tuple*", always((6, 7))), ("convolution.[tb]* u: *", rand(3, 2, 2, 3)),
    ("convolution.* weight: *", rand(2, 2, 3, 3)), ("convolution.[mtb]*[xdn] stride: *", always(2)),
    ("convolution.[mtb]*[xdn] dilation: *", always(1)), ("convolution.[mtb]*[xdn] padding: *", always(0)),
    ("convolution.transposed_size output_padding: *", always(0)),
    ("convolution.* layers: *", lambda w: [convolution.Layer(3, 2, 1), convolution.Layer(2)]),
    ("convolution.* size: *", count(9, 12)), ("* layer: *", always(convolution.Layer(3, 2, 1))),
    ("convolution.*: Field", always(convolution.Field(2, 1, 0))), ("convolution.*half* dilation: *", always(2)),
    ("convolution.res* kernel: *", always(3)), ("convolution.* padding: *", count(0, 1)),
    ("* images: *", rand(2, 2, 4, 8)), ("* period: *", always(2)),
    ("*.convolution_of linear: *", lambda w: nn.Linear(16, 2)), ("*.convolution_of window: *", always(2)),
    ("segmentation.FCN.__init__ widths: *", always((4, 4))), ("segmentation.FCN.__init__ convs: *", always((1, 2))),
    ("segmentation.FCN.__init__ stride: *", lambda w: w.one(2, 4)),
    ("segmentation.FCN.__init__ padding: *", always(20)), ("segmentation.FCN.* x: *", rand(2, 2, 16, 24)),
    ("segmentation.UNet2015.* depth: *", count(0, 2)), ("segmentation.* cut: *", always((0,))),
    ("segmentation.UNet2015.f* x: *", rand(2, 1, 20, 20)), ("*.valid_output size: *", always(188)),
    ("*.valid_output depth: *", always(4)), ("segmentation.* net: *", always(SELF["segmentation.UNet2015"])),
    ("segmentation.whole x: *", rand(2, 1, 24, 20)), ("* instances: *", lambda w: w.whole(0, 3, 6, 5)),
    ("* scores: *", rand(2, 3, 4, 4)), ("* target: *", lambda w: w.whole(0, 3, 2, 4, 4)),
    ("segmentation.p* weights: *", rand(2, 4, 4, low=0.1)), ("*.c* size: Seq*", always((2, 3))),
    ("segmentation.c* x: *", rand(2, 3, 4, 4)), ("* offset: int", always(1)),
    ("* module: *", lambda w: nn.Conv2d(1, 2, 3)), ("* balance: *", lambda w: w.one(1.0, w.rand(6, 5, low=0.1))),
    # networks
    ("* embed: *", lambda w: w.one(unet.time_embedding, unet.improved_time_embedding)),
    ("unet.*_embedding dim: *", always(8)), ("* embedding: *", lambda w: w.one(None, 4)),
    ("* widths: *", always((8, 16))), ("* attention: *", lambda w: w.one((), (0,), (0, 1))),
    ("* head_width: *", lambda w: w.one(4, 8)), ("* heads: *", lambda w: w.one(0, 2)),
    ("* groups: *", lambda w: w.one(2, 4)), ("* patch: *", lambda w: w.one(1, 2)),
    ("*Classifier.__init__ size: *", always(8)), ("* asymmetric: *", always(False)), ("* classes: *", count(1, 3)),
    ("* dropout: *", between(0, 0.9)), ("*: bool", lambda w: w.one(True, False)),
    ("* out_channels: *None", lambda w: w.one(None, 4)), ("[uc]*.forward x: *", rand(3, 2, 8, 8)),
    ("unet.* label: *", lambda w: w.one(None, 2, w.whole(0, 4, 3))), ("unet.* eps: *", always(1e-5)),
    ("* rescale: *", always(1.0)),
    # early and vae
    ("early.StepwiseRBF.f* x: *", rand(3, 2)), ("early.StepwiseRBF.f* t: *", lambda w: w.whole(1, 41, 3)),
    ("early.StepwiseMLP.f* x: *", rand(2, 3, 4)), ("early.StepwiseMLP.* t: *", lambda w: w.whole(1, 7, 2)),
    ("early.StepwiseMLP.__init__ knots: *", count(2, 5)),
    ("early.Binomial.__init__ betas: *", rand(5, low=0.1, high=0.9)),
    ("early.Binomial.* t: *", lambda w: w.one(2, w.whole(1, 7, 3))), ("early.Binomial.* x*", bits(3, 2)),
    ("*: Binomial", always(BITS)), ("early.*bi[nt]* x0: *", bits(3, 4)),
    ("early.bin* t: *", lambda w: w.whole(2, 7, 2)), ("early.walk_back_bits x: *", bits(3, 4)),
    ("*: Logits", always(network)), ("early.best_logits data: *", bits(5, 4)), ("early.rel*ts x: *", bits(3, 2, 4)),
    ("early.best_logits x: *", bits(3, 2, 4)), ("early.rel*ts t: *", lambda w: w.whole(1, 7, 3)),
    ("early.best_logits t: *", lambda w: w.whole(2, 7, 3)), ("early.*_* t: Tensor", lambda w: w.whole(2, 41, 3)),
    ("early.eps_r* variance: *", rand(41, low=0.1)), ("early.* known: *", lambda w: w.like() > 0),
    ("early.* net: *", lambda w: lambda x, t: (0.1 * x, torch.tanh(x))),
    ("early.* reverse: *", lambda w: lambda x, t: (0.9 * x, 0.1 + torch.tanh(x) ** 2)),
    ("early.binary* rate: *", rand(3, low=0.0, high=1.0)), ("*: Posterior", lambda w: (w.rand(4, 2), w.rand(4, 2))),
    ("vae.* log_likelihood: *", always(PCA.log_likelihood)), ("vae.[rlsi]* eps: *", rand(5, 4, 2)),
    ("vae.log_bernoulli x: *", lambda w: w.like(0, 1)), ("vae.log_normal x: *", lambda w: w.like()),
    ("vae.BernoulliVAE.* x: *", rand(4, 6, low=0.0, high=1.0)), ("vae.* x: *", rand(4, 3)), ("vae.* z: *", rand(4, 2)),
    # exact
    ("exact.GaussianMixture.__init__ weights: *", lambda w: torch.tensor([0.5, 0.5])),
    ("exact.GaussianMixture.__init__ means: *", rand(2, 3)),
    ("* covariances: *", lambda w: torch.eye(3).expand(2, 3, 3)), ("* k: int", count(0, 1)),
    ("exact.GaussianMixture.[cq]* [xs]*", rand(3, 1, low=0.1, high=0.9)), ("exact.G* x: *", rand(3, 2)),
    ("exact.iso* weights: *", always([0.5, 0.5])), ("* means: *", always([[1.0, 0.0], [2.0, 1.0]])),
    ("exact.FiniteData.__init__ data: *", rand(5, 1, 2)), ("exact.FiniteData.* x: *", rand(3, 1, 2)),
    # times and levels
    ("schedule.V*time_at ratio: *", between(0.1, 9)),
    ("schedule.* ratio: *", lambda w: w.one(w.between(0.1, 3), w.rand(2, 2, low=0.1, high=3))),
    ("schedule.[VS]* t: Tensor*", lambda w: w.one(0.3, w.rand(2, 2, low=0, high=1))),
    ("schedule.*first: *", between(1e-4, 0.02)), ("schedule.* last: *", between(0.02, 0.4)),
    ("*alpha_bar: *", lambda w: torch.tensor([1, 0.7, 0.3, 0.05])),
    ("schedule.* betas: *", rand(9, low=0.01, high=0.7)), ("score.* first: *", between(5, 9)),
    ("score.* last: *", between(0.1, 1)), ("* T: int", count(9, 40)), ("schedule.* steps: *", count(2, 5)),
    ("* t: Tensor*", lambda w: w.times(w.t)),
    ("* s: Tensor", lambda w: w.times(w.s if w.on is not CHAIN else w.one(w.s, 0))), ("* t: float", lambda w: w.t),
    ("* s: float", lambda w: w.s), ("*: Schedule", lambda w: w.on), ("*: Discrete", lambda w: w.on),
    ("* end: *", lambda w: w.s), ("sde.flow start: *", lambda w: w.t), ("* start: *", lambda w: w.one(None, w.t)),
    ("samplers.ddim_inv* times: *", lambda w: [0, w.s, w.t]), ("* times: *", lambda w: [w.t, w.s, 0]),
    ("* now: *", lambda w: w.level(w.t)), ("* then: *", lambda w: w.level(w.s)),
    # functions
    ("losses.learned_* net: *", always(learned)), ("losses.hybrid net: *", always(learned)),
    ("losses.as_learned net: *", always(learned)), ("samplers.*_learned net: *", always(learned)),
    ("guidance.eps_part net: *", always(learned)), ("guidance.on_eps net: *", always(learned)),
    ("*: EpsFn", always(network)), ("*: Network", always(network)), ("* score: Callable*", always(lambda x: -x)),
    ("*: ScoreFn", always(lambda x: torch.sin(x))), ("*: VectorField", always(torch.sin)),
    ("*: ClassScore", always(network)),
    ("* classifier: *", always(lambda x, t: (x.reshape(len(x), -1)[:, :1] * torch.ones(2).double()).log_softmax(1))),
    ("* labels: *", lambda w: w.whole(0, 2, 3)), ("* condition: *", lambda w: w.whole(0, 2, 3)),
    ("* null: Tensor", lambda w: w.whole(0, 2, 3)), ("* label: *", lambda w: w.whole(0, 2, 3)),
    ("* wrapper: *", always(lambda e: lambda x, t: e(x, t).clamp(-1, 1))),
    ("* prediction: *", lambda w: w.one(losses.EPS, losses.X0, losses.V)),
    ("*: Variance", lambda w: w.one(gaussian.fixed_small, gaussian.fixed_large)),
    ("* reverse: *", lambda w: exact.gaussian_reverse(0.1, 0.5, w.on)),
    ("* decoder: *", always(gaussian.discretised_log_prob)), ("* shift: *", always(None)),
    ("* after: After | None", always(None)), ("*: After", always(lambda x, s: 0.5 * x)),
    ("* halfway: *", lambda w: w.one(samplers.halfway_in_time, samplers.halfway_in_ratio)),
    ("* sampler: *", lambda w: w.one(samplers.plms, samplers.ddim)),
    ("* predictor: *", lambda w: w.one(sde.reverse_diffusion, sde.ancestral_step(gaussian.fixed_large))),
    ("* corrector: *", lambda w: w.one(None, sde.level_step(0.1), sde.snr_step(0.1))),
    ("* states: *", lambda w: [samplers.State(0, w.like(), w.like())]),
    ("* prior: *", always(sde.normal_prior(CONTINUOUS[0]))), ("* divergence: *", always(sde.exact_divergence)),
    ("sde.col* noise: *", always(partial(torch.ones, 3, 3, 4, 4))), ("* noise: Noise", lambda w: w.like),
    ("* multiply: *", lambda w: w.one(None, early.shift_by_gradient(torch.sin))),
    # numbers
    ("* count: int", count(2, 5)), ("* alpha: *", always(1)), ("guidance.* var: *", always(torch.tensor(0.3))),
    ("* dtype: *", lambda w: w.one(torch.float32, torch.float64)), ("* device: *", always("cpu")),
    ("* shape: *", lambda w: w.shape[1:]), ("* dims: *", count(5, 9)), ("* [ra]tol: *", always(1e-3)),
    ("*: int*", count(1, 3)), ("* ratio: float", between(1.1, 2)), ("* high: *", between(1.1, 2)),
    ("* small: *", between(0.01, 0.1)),
    ("*: Coefficient", lambda w: w.one(w.between(0.1, 1), w.rand(3, low=0.1, high=1))),
    ("* *logvar: *", lambda w: w.one(0.3, w.like())), ("vae.* mean: *", lambda w: w.one(0.3, w.like())),
    ("*: float*", between(0.1, 0.9)),
    # tensors
    ("*.slerp [ab]: *", lambda w: w.like(0.1)), ("*.two_answers answer: *", rand(3, 4)),
    ("*.two_answers x: *", rand(3, 2)), ("*.discret* x0: *", lambda w: w.whole(0, 256, *w.shape) / 127.5 - 1.0),
    ("losses.*bound* x0: *", lambda w: w.whole(0, 256, *w.shape).double() / 127.5 - 1),
    ("losses.hy* x0: *", lambda w: w.whole(0, 256, *w.shape).double() / 127.5 - 1), ("* losses: *", rand(5, 3)),
    ("* loss: *", rand(3)), ("* nats: *", rand(3)), ("* p: *", rand(5, low=0.1)),
    ("* levels: *", always(torch.tensor([0.9, 0.5, 0.1]))), ("* grey: *", rand(3, 1, 4, 4)),
    ("sde.in_basis basis: *", always(sde.GREY_FIRST)), ("sde.in_basis x: *", rand(2, 3, 2)),
    ("sde.col* x: *", rand(3, 3, 4, 4)), ("* mask: *", lambda w: w.like() > 0), ("* answer: *", lambda w: w.like()),
    ("* var*: Tensor", lambda w: w.like(0.1, 1)), ("*: Tensor*", lambda w: w.like()),
]  # fmt: skip

# What an answer is called with, if it is a function: by module and annotation.
CALLS = {
    "* StepBack": "x: Tensor, t: Tensor", "* Reverse": "x: Tensor, t: Tensor, s: Tensor",
    "* EpsFn": "x: Tensor, t: Tensor", "* Network": "x: Tensor, t: Tensor, label: Tensor", "* ScoreFn": "x: Tensor",
    "* ClassScore": "x: Tensor, t: Tensor", "* Shift": "x: Tensor, t: Tensor, mean: Tensor, var: Tensor",
    "* Variance": "now: AnyLevel, then: AnyLevel", "* Noise": "",
    "* Loss": "net: EpsFn, prediction: Prediction, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor",
    "* Sampler": "eps_fn: EpsFn, schedule: Schedule, x: Tensor, times: Sequence[float]", "* LogProb": "x: Tensor",
    "* Predictor": "schedule: Schedule, x: Tensor, eps: Tensor, t: float, s: float", "* After": "x: Tensor, s: float",
    "* Corrector": "eps: Tensor, z: Tensor, alpha: float", "* Divergence": "field: VectorField, x: Tensor",
    "* Multiply": "mean: Tensor, var: Tensor, then: AnyLevel", "* Logits": "x: Tensor, t: Tensor",
}  # fmt: skip

# Two batches may meet in these: the first looks at no sample, the others repeat by design.
REPEATS = ("sde.level_step", "sde.inpaint", "vae.log_normal", "early.multiply_gaussian")

INSIDE = {  # not fuzzed
    "unet.ResBlock*": "a part of a network", "unet.Attenti*": "parts of networks, which check what enters",
    "unet.Halve*": "a part of a network", "unet.Double*": "a part of a network",
    "classifier.AttentionPool*": "a part of a network", "unet.*_cifar10": "no arguments",
    "early.entropy_of_step_back": "one subtraction",
    "unet.adm": "hundreds of megabytes; its error is tested in test_unet.py",
    "unet.improved_imagenet64": "hundreds of megabytes; arguments are `UNet`'s",
    "gaussian.check_[afir]*[!r]": "take names; each use of theirs is fuzzed", "schedule.Schedule*": "a protocol",
    "gaussian.each_item": "takes names; each use of its is fuzzed",
    "losses.Network*": "a protocol", "*.T": "no arguments", "*.precision": "no arguments", "*.untie": "no arguments",
    "*.probabilities": "no arguments",
}  # fmt: skip


class Boundary(NamedTuple):
    """A public callable, its arguments and those of the function that it answers, as "argument: annotation"."""

    call: Callable[..., Any]
    arguments: list[str]
    then: list[str] | None


def boundaries() -> Iterator[tuple[str, Boundary]]:
    """Every public function, constructor and method of the mathematics, by name."""
    for path in sorted(HOME.glob("[!_]*.py")):
        module = importlib.import_module(f"ddpm_path.{path.stem}")
        for node in ast.parse(path.read_text()).body:
            name = f"{path.stem}.{getattr(node, 'name', '_')}"
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                yield name, boundary(node, name, getattr(module, node.name))
            for part in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(part, ast.FunctionDef) and (part.name[0] != "_" or part.name in ("__init__", "__call__")):
                    of = SELF.get(f"{name}.{part.name}", SELF.get(name))
                    if part.decorator_list or part.name == "__init__":
                        of = getattr(module, node.name)
                    call = of if part.name == "__init__" else getattr(of, part.name, None)
                    yield f"{name}.{part.name}", boundary(part, name, call)


def boundary(node: ast.FunctionDef, name: str, call: Any) -> Boundary:
    arguments = [ast.unparse(a) for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
    answer = f"{name.partition('.')[0]} {node.returns and ast.unparse(node.returns)}"
    then = next((called for pattern, called in CALLS.items() if fnmatchcase(answer, pattern)), None)
    return Boundary(call, arguments, None if then is None else then.split(", ") if then else [])


def legal(name: str, argument: str, world: World) -> Any:
    return next(make for pattern, make in LEGAL if fnmatchcase(f"{name} {argument}", pattern))(world)


def bends(value: Any, argument: str) -> list[tuple[str, Any]]:
    """Kinds of what might be handed over instead of a legal argument, and these."""
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return bends(value.item(), argument)
        shapes = [("more", torch.cat([value, value[:1]])), ("other", value[0]), ("other", value[..., None])]
        shapes += [("empty", value[:0])] + [("other", value[..., :1])] * (value.ndim > 1 and value.shape[-1] > 1)
        if not value.is_floating_point():
            return shapes + [("range", value + n) for n in (1000, -1000) if value.dtype != torch.bool]
        spoilt = [value.clone() for _ in range(2)]
        for one, number in zip(spoilt, (math.nan, math.inf), strict=True):
            one.view(-1)[0] = number
        values = [("range", 0 * value), ("range", -value), ("range", 100 * value), ("type", value.long())]
        return [*shapes, *values, ("type", value.float()), *(("flow", one) for one in spoilt)]
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int):
        odd = [math.inf, math.nan] if argument == "T: int" else []
        return [("range", number) for number in (0, -1, -3, value + 1, value + 7, *odd)]
    if isinstance(value, float):
        return [("range", number) for number in (0.0, -1.0, math.nan, math.inf, -math.inf, 1e4)]
    if isinstance(value, list) and all(isinstance(number, int | float) for number in value):
        bad = [[], value[::-1], [*value, value[-1]], [*value[:-1], math.nan], [*value, -1.0], [1e9, *value], value[:1]]
        return [("range", one) for one in bad]
    if argument.endswith("AnyLevel"):
        levels = (CHAIN(0.0), (1.0, 0.0), schedule.VE()(1.0), CHAIN(40), (math.nan, math.nan))
        return [("more", CHAIN(torch.full((4,), 9.0))), *(("range", level) for level in levels)]
    if isinstance(value, tuple):  # a level, a posterior, sizes
        parts = [(i, bend) for i, part in enumerate(value) for bend in bends(part, argument)]
        build = getattr(value, "_make", tuple)
        return [(kind, build([*value[:i], part, *value[i + 1 :]])) for i, (kind, part) in parts]
    if argument.partition(": ")[2] in ("EpsFn", "Network", "ScoreFn", "Logits", "ClassScore", "VectorField"):
        wrong = (lambda x: x[:-1], lambda x: x[..., None], lambda x: x.float(), lambda x: (x,), lambda x: None)
        wrong += (lambda x: 1.0 + torch.zeros_like(x.detach()),)
        return [("range", lambda *a, w=w: w(value(*a))) for w in wrong] + [("flow", lambda *a: math.nan * value(*a))]
    return []


def tensors(values: Any) -> Iterator[Tensor]:
    """All tensors and numbers in an answer or among arguments, as tensors."""
    if isinstance(values, Tensor | float | int):
        yield torch.as_tensor(values)
    elif isinstance(values, tuple | list):
        yield from itertools.chain.from_iterable(map(tensors, values))


def ours(error: BaseException) -> bool:
    """Whether a `raise` of the package made this error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(str(HOME)) and str(last.line).startswith("raise ")


BOUNDARIES = {name: boundary for name, boundary in boundaries() if not any(fnmatchcase(name, i) for i in INSIDE)}


def ask(name: str, seed: int, bent: int, which: Callable[[int], int]) -> str | None:
    """What is wrong with the answer to arguments drawn by `seed`, one (none at -1) in the way `which` chooses of n."""
    call, arguments, then = BOUNDARIES[name]
    every = [*arguments, *(then or [])]
    world = World(name, seed)
    values = [legal(name, argument, world) for argument in every]
    kind, lost, what = "legal", False, "legal arguments"
    if bent >= 0 and (options := bends(values[bent], every[bent])):
        kind, value = options[which(len(options))]
        passed_on = [then is not None and argument[:3] in ("t: ", "lab") for argument in every]  # a network checks
        others = [part for i, part in enumerate(values) if i != bent and not passed_on[i] and not passed_on[bent]]
        shapes = [part.shape for part in tensors(others) if part.ndim]
        was = getattr(values[bent], "shape", ())
        many = kind == "more" and any(was[:1] == shape[:1] for shape in shapes)
        lost = many or (kind in ("other", "empty") and len(was) > 1 and was in shapes)
        values[bent], what = value, f"{every[bent]} = {value}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a schedule that keeps signal says so
        try:
            answer = call(**{each.partition(":")[0]: value for each, value in zip(arguments, values, strict=False)})
            if then is not None:
                answer = answer(*values[len(arguments) :])
            if isinstance(answer, Iterator):
                answer = list(answer)
        except Exception as error:
            return None if kind != "legal" and ours(error) else f"{what}: {error!r}"
    finite = kind == "flow" or all(bool(piece.isfinite().all()) for piece in tensors(answer))
    lost = lost and name not in REPEATS
    return f"{what}: answered {answer}" if lost or not finite else None


@pytest.mark.parametrize("name", BOUNDARIES)
@settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_a_finite_answer_or_an_error_of_our_own(name: str, data: st.DataObject) -> None:
    _, arguments, then = BOUNDARIES[name]
    seed, bent = data.draw(st.integers(0, 999)), data.draw(st.integers(-1, len(arguments) + len(then or []) - 1))
    assert not ask(name, seed, bent, lambda n: data.draw(st.integers(0, n - 1)))


# --- The command line: the names, numbers and files that a user types. Only the work itself is left out.

OPTIONS = {
    "list": "", "doctor": "", "run": "", "diagnose": "--data --size", "train": "--data --size --out --steps --bf16",
    "sample": "--steps --sampler --eta --grid --start --label --scale --seed --n --out",
    "evaluate": "--images --samples --steps --variance --seed --save --against",
}  # fmt: skip
RIGHT = {
    "name": ["digits", "digits-live", "digits-recogniser"], "run": ["03", "03_ddpm_forward"],
    "--sampler": ["ddim", "plms"], "--grid": ["ratio", "leading"], "--label": ["7"], "--variance": ["small"],
    "--out": ["grid.png", "new/grid.png"], "--eta": ["0.5"], "--scale": ["3"], "--samples": ["50"],
    "--against": ["digits"], "--save": ["new.json"],
}  # fmt: skip
NUMBERS = ["0", "1", "2", "25", "1000", "1001", "-1", "1.5", "nan", "-inf", "1e9", "9" * 20]
TYPOS = ["", "digit", "dim", "empty", "old.json", "grid.jpeg", "no/such", "--", "-x", "a b", "\0", "\u00b2"]


@pytest.mark.parametrize("command", [*OPTIONS, "smaple"])
def test_a_command_runs_or_says_in_a_line_what_to_change(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0, or 2 and one line on stderr (argparse puts its usage before): whatever the arguments."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.json").write_text("{}")
    for kind in ("_diffusion", "_recogniser", "_classifier", "_segmenter"):
        monkeypatch.setattr(making, kind, lambda *given: None)
    monkeypatch.setattr(metrics, "sample", lambda net, on, n, shape, *given: torch.zeros(min(n, 9), *shape))
    monkeypatch.setattr(runner, "run", lambda names, notebooks, out: 0 * len(runner.select(names, notebooks)))
    monkeypatch.setattr(doctor, "examine", lambda: [])
    for part in ("_bits", "_samples"):
        monkeypatch.setattr(evaluation, part, lambda *given: ([], []))
    text = st.text(st.characters(exclude_characters="/\n", exclude_categories=["Cs"]), max_size=5)
    options = OPTIONS.get(command, "").split()

    @settings(max_examples=3 * EXAMPLES, deadline=None, database=None, derandomize=True)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        def draw(words: list[str]) -> str:
            return data.draw(st.sampled_from(words * 4 + TYPOS) | text)

        arguments = [draw(RIGHT.get(command, RIGHT["name"]))] if data.draw(st.integers(0, 9)) else []
        for option in data.draw(st.lists(st.sampled_from(options), max_size=3)) if options else []:
            arguments += [option] if option == "--bf16" else [option, draw(RIGHT.get(option, NUMBERS))]
        try:
            status = main([command, *arguments])
        except SystemExit as stop:
            status = stop.code
        error = capsys.readouterr().err
        assert status in (0, 2), (arguments, error)
        assert (status == 2) == (": error: " in error.rstrip("\n").rpartition("\n")[2]), (arguments, error)

    check()
