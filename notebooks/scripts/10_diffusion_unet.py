# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · The diffusion U-Net
#
# The noise predictor was a black box so far. It is the U-Net of 2015 with residual blocks, attention where the map is
# small, and one news: every block is told the time. That is DDPM's network ([Ho, Jain and
# Abbeel](https://arxiv.org/abs/2006.11239), 2020, appendix B). [Dhariwal and
# Nichol](https://arxiv.org/abs/2105.05233) (2021, section 3) changed five things in it, and called the result ADM. Here
# we open it, and take parts away.
#
# Reading: both sections. You need 04; 08 and 09 tell where skips and up-sampling come from.

# %%
import copy
from functools import partial

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from ddpm_path import unet
from ddpm_path.gaussian import q_sample
from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import EMBEDDING_OF_TIME, MANY_HEADS, check
from ddpm_path.losses import V, as_eps
from ddpm_path.samplers import decode, start_noise
from ddpm_path.schedule import uniform_times
from ddpm_path.unet import Attention, UNet, improved_time_embedding, time_embedding

seed = lambda k: torch.Generator().manual_seed(k)  # noqa: E731
data, schedule = datasets.digits(), zoo.load("digits")[1]
network = zoo.load_network("digits")[0]  # it predicts v

# %% [markdown]
# ## Time as waves
#
# A number between 1 and 1,000 is a poor input: blocks want many features of it, smooth and of size 1. So $t$ becomes
# the phase of $d/2$ waves,
#
# $$e(t) = (\sin\omega_i t,\ \cos\omega_i t), \qquad \omega_i = 10000^{-i/(d/2-1)}, \quad i = 0, \dots, d/2-1$$
#
# No table, so $t = 2.5$ is as good as 2. Improved DDPM and ADM put cosines first and divide by $d/2$: a weight file
# tells neither.
#
# *Predict before you run:* which waves tell 500 from 501? Which 100 from 900?


# %%
def waves(t, dim):
    omega = 10000.0 ** -(torch.arange(dim // 2) / (dim // 2 - 1))
    return torch.cat([(t[:, None] * omega).sin(), (t[:, None] * omega).cos()], 1)


t = torch.tensor([1.0, 500.0, 1000.0])
torch.testing.assert_close(waves(t, 48), time_embedding(t, 48), atol=6e-5, rtol=0)  # float32 angles up to 1,000
e = time_embedding(torch.arange(1001.0), 48)
figure = Figure(figsize=(9, 3), layout="tight")
left, right = figure.subplots(1, 2)
left.imshow(e.T, aspect="auto", cmap="RdBu", interpolation="nearest")
left.set(xlabel="t", ylabel="feature", title="24 sines above 24 cosines")
for k in (100, 500, 900):
    right.plot(F.cosine_similarity(e[[k]], e), label=f"e({k})", linewidth=1)
right.set(xlabel="t", title="cosine of the angle with e(t)", ylim=(-0.1, 1.3))
right.legend(fontsize=8, ncols=3, loc="upper center")
plots.show(figure, "Stripes of waves from fast to slow, twice; each time resembles its neighbours, a peak at itself.")

# %% [markdown]
# **You should see** fast waves that tell neighbours apart, slow ones that tell early from late, and a narrow peak of
# similarity on a broad hill. **If instead** it repeats, the frequencies are too high.
#
# ## How a block hears it
#
# Two layers turn $e(t)$, plus a label's embedding, into one vector $c$ for all blocks. DDPM *adds* a projection of $c$
# between a block's two convolutions. ADM (AdaGN) lets it scale and shift what the normalisation has just made flat:
#
# $$\mathrm{AdaGN}(h, c) = (1 + y_s)\,\mathrm{GroupNorm}(h) + y_b, \qquad (y_s, y_b) = W c$$


# %%
def block_by_hand(b, x, c):
    h = b.conv1(F.silu(b.norm1(x)))
    y_s, y_b = b.condition(c)[:, :, None, None].chunk(2, 1)
    h = (1 + y_s) * b.norm2(h) + y_b
    return b.skip(x) + b.conv2(F.silu(h)), y_s


double = copy.deepcopy(network).double()
block, x = double.down[0][0].block, 0.5 + torch.randn(1, 48, 8, 8, generator=seed(0), dtype=torch.float64)
for t in (1.0, 500.0, 1000.0):
    c = F.silu(double.time(time_embedding(torch.tensor([t]), 48).double()) + double.label.weight[[7]])
    by_hand, y_s = block_by_hand(block, x, c)
    torch.testing.assert_close(by_hand, block(x, c))
    print(f"t = {t:6.0f}: of 48 channels {(y_s < -0.5).sum():2} are damped below half, {(y_s > 0.5).sum():2} raised")

# %% [markdown]
# **You should see** that the time opens and closes channels.
#
# ## What one output pixel sees
#
# Walk back from one pixel: a 3 x 3 convolution widens the interval it depends on by 1 at both ends, doubling halves
# it, a convolution of stride 2 doubles it and adds 1. We compare with where the gradient is not 0, in a random network
# of three levels: first with convolutions alone, then with attention, then with group normalisation.
#
# *Predict:* how wide is the interval? Which of the two others sees farther?

# %%
path = "c" + "cccc" + "cd" + "cccc" + "cd" + "cccc" + "cccc" + "cc" + "h" + "cc" + "h" + "cc" + "c"  # from the end
low = high = 96
for step in path:
    if step == "d":
        low, high = low // 2, high // 2
    else:
        low, high = (low - 1, high + 1) if step == "c" else (2 * low - 1, 2 * high + 1)

net = UNet(1, (8, 8, 8), head_width=8, groups=4).double()
for k, p in enumerate(net.parameters()):
    p.data = torch.randn(p.shape, generator=seed(k), dtype=torch.float64) / p[0].numel() ** 0.5
norms = [m for m in net.modules() if isinstance(m, torch.nn.GroupNorm)]
attentions = [m for m in net.modules() if isinstance(m, Attention)]
for m in (*norms, *attentions):
    m.forward = lambda x: x
seen, x = {}, torch.randn(1, 1, 192, 192, generator=seed(1), dtype=torch.float64).requires_grad_()
for name, parts in {"convolutions": (), "and attention": attentions, "and group norm": norms}.items():
    for m in parts:
        del m.forward
    seen[name] = torch.autograd.grad(net(x, 500.0)[0, 0, 96, 96], x)[0][0, 0].abs()
columns = seen["convolutions"].amax(0).nonzero()
assert (columns.min(), columns.max()) == (low, high)
plots.show(
    plots.maps({name: (g + 1e-16).log10() for name, g in seen.items()}, 3, "log10 |gradient|"),
    "A sharp square for convolutions; with attention and with group norm faint colour over the whole image.",
)
print(f"arithmetic and gradients agree: pixels {low} to {high}, {high - low + 1} of 192")

# %% [markdown]
# **You should see** a square with hard edges, brightest in its middle. Attention reaches everything, and so does group
# normalisation, through its means: a "local" network with it is none.
#
# ## The published sizes
#
# Built without memory for weights. The counts are the papers', to the parameter where public code tells them.

# %%
presets = {"DDPM, CIFAR-10": unet.ddpm_cifar10, "improved DDPM, CIFAR-10": unet.improved_cifar10}
presets |= {"improved DDPM, ImageNet-64": partial(unet.improved_imagenet64, 192, 1000)}
presets |= {f"ADM, {size} pixels": partial(unet.adm, size) for size in unet.ADM}
count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
for name, preset in presets.items():
    with torch.device("meta"):
        net = preset()
    coarse = net.down[-1], net.middle, net.up[0]
    maps = sum(count(m) for m in net.modules() if isinstance(m, Attention))
    shares = [100 * part / count(net) for part in (sum(map(count, coarse)), maps)]
    print(f"{name:26} {count(net):11,}: {shares[0]:.0f}% at the lowest level, {shares[1]:.0f}% in attention")
assert count(unet.ddpm_cifar10()) == 35_746_307

# %% [markdown]
# ## Take parts away
#
# Our digits network has two levels. We cut the skips, of the finer or of the coarser level, silence attention, or
# freeze time at 500, without training again. And one famous mistake, on purpose: the other order of sines and cosines,
# as when weights of one code are read into another. Nothing complains.
#
# What freezing costs can be known exactly: the best denoiser of the training digits, told 500 at all levels.
#
# *Predict:* which cut hurts at little noise, which at much?

# %%
without = {name: copy.deepcopy(network) for name in ("whole", "fine skips", "coarse skips", "attention")}
for name, stage in (("fine skips", 1), ("coarse skips", 0)):
    for up in without[name].up[stage]:
        kept = up.block.norm1.num_channels - (96 if stage == 0 and up is without[name].up[0][0] else 48)
        up.register_forward_pre_hook(
            lambda m, args, n=kept: (torch.cat([args[0][:, :n], 0 * args[0][:, n:]], 1), args[1])
        )
for m in without["attention"].modules():
    if isinstance(m, Attention):
        m.edit = lambda q, k, v: torch.zeros_like(v)
without |= {"time": copy.deepcopy(network), "waves swapped": copy.deepcopy(network)}
without["time"].embed = lambda t, dim: time_embedding(torch.full_like(t, 500.0), dim)
without["waves swapped"].embed = improved_time_embedding
nets = {
    name if name in ("whole", "waves swapped") else f"no {name}": as_eps(net, V, schedule)
    for name, net in without.items()
}

heart, times = metrics.by_heart(data, schedule), (5, 30, 100, 250, 500, 750, 950)
exact = {"exact": heart, "exact, no time": lambda x, t, label: heart(x, torch.full_like(t, 500.0), label)}
test, train = (data.test[:64], data.test_labels[:64]), (data.train[:64], data.train_labels[:64])
errors = {name: metrics.loss_by_level(net, schedule, *test, times) for name, net in nets.items()}
errors |= {name: metrics.loss_by_level(net, schedule, *train, times) for name, net in exact.items()}
for name in nets:
    print(
        f"{name:15} error, times the whole network's:", *(f"{ratio:6.2f}" for ratio in errors[name] / errors["whole"])
    )
axes = (figure := plots.curves(times, errors, "t", "mean squared error of eps")).axes[0]
for line in axes.lines[-2:]:
    line.set(color="black", linestyle=":" if line.get_label() == "exact" else "--")
axes.set(yscale="log", ylim=(5e-4, 3))
axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(figure, "Errors over t: without fine skips or time, or with swapped waves, far above the whole network.")

# %%
labels, noise = torch.arange(10), start_noise(10, (1, 16, 16), seed(0))
rows = {
    name: decode(partial(net, label=labels), schedule, noise, uniform_times(1000, 20)) for name, net in nets.items()
}
plots.show(
    plots.grid(torch.cat(list(rows.values())), 10, rows=tuple(rows)), "Digits 0 to 9, whole, then worse in each row."
)

# %% [markdown]
# **You should see** that the fine skips carry nearly all detail: without them the error is up to 16 times as large.
# Without time it is right at 500 and 3 to 6 times too large elsewhere, much as the exact curve foretells: not even a
# perfect denoiser can do without $t$. The coarse skips and attention are worth 1 to 4% here, where maps are small. And
# swapped waves cost up to 9 times, yet the digits, speckled, could pass a glance.
#
# ## Where attention looks
#
# `edit` stands in for softmax$(q k^\top)v$, so it can read the maps: here of the MNIST network's middle, 7 x 7
# positions.
#
# *Predict:* does a position look at its neighbours, at its like, or elsewhere?

# %%
mnist = zoo.load_network("mnist")[0]
image = datasets.mnist_sample()[0][[0]]
kept = []


def read(q, k, v):
    kept.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[0].mean(0))  # (49, 49), mean over heads
    return kept[-1] @ v


mnist.middle[0].attention.edit = read
panels = {}
for t in (50, 500, 950):
    x_t = q_sample(image, torch.randn(image.shape, generator=seed(0)), schedule(t))
    mnist(x_t, float(t))
    spread = (-(kept[-1] * kept[-1].log()).sum(1)).exp().mean()
    print(f"t = {t}: a position looks at {spread:.0f} of 49, {kept[-1].diagonal().mean():.0%} at itself")
    panels |= {f"t = {t}, from {where}": kept[-1][i].view(7, 7) for where, i in (("the corner", 0), ("the middle", 24))}
plots.show(
    plots.maps(panels, 6, "weight"),
    "Maps of 7 x 7 weights: a few cells are bright, mostly the same from both positions.",
)

# %% [markdown]
# **You should see** few bright cells, at low noise in the empty background, and the same for both positions: whatever
# asks, attention fetches something about the image as a whole. In ImageNet's networks, on larger maps, it does more.
#
# ## ADM's choices, at the scale of digits
#
# Six small networks differ in one choice each, three seeds apiece, trained alike for 200 steps: with added
# conditioning, with 4 heads, with attention at both levels, with residual blocks that resample (BigGAN), with residual
# sums divided by $\sqrt 2$. ADM found all but the last to help, by FID on ImageNet. We compare $L$, the error of eps on
# the test digits.
#
# *Predict:* which of the five will hold?

# %%
x0, true = data.test.repeat(5, 1, 1, 1), data.test_labels.repeat(5)
eps, t = torch.randn(x0.shape, generator=seed(0)), torch.linspace(1, 1000, len(x0))
x_t, loss = q_sample(x0, eps, schedule(t)), {}
for name in ("base", "added", "heads", "attention", "resampling", "rescaling"):
    nets = [zoo.load(f"{name}-{k}", zoo.ZOO / "choices")[0] for k in range(3)]
    loss[name] = torch.stack([(net(x_t, t, true) - eps).square().mean() for net in nets])
    print(
        f"{name:10} {count(zoo.load_network(f'{name}-0', zoo.ZOO / 'choices')[0]):,}", *(f"{v:.4f}" for v in loss[name])
    )
for key, worse, better in (
    ("adaptive-norm", "added", "base"),
    ("heads", "base", "heads"),
    ("attention", "base", "attention"),
    ("resampling", "base", "resampling"),
    ("rescaling", "rescaling", "base"),
):
    margins = (loss[worse] / loss[better]).log()
    claims.measure(f"adm-{key}", margins.mean(), margins.std() / 3**0.5)

# %% [markdown]
# **You should see** TODO
#
# ## Published weights
#
# `zoo.from_published(path)` reads the weights of DDPM, improved DDPM and ADM from a file you downloaded, in diffusers'
# or OpenAI's layout: its `eps` goes into any sampler. The order of the waves, heads and padding, which no tensor tells,
# come from `config.json` or a table.
#
# ## Exercises
#
# Write (1) DDPM's embedding of time; (2) attention of several heads from `qkv` (B, 3 C, L), in which all queries come
# first, then all keys, then all values. Solutions: `ddpm_path/lab/exercises/diffusion_unet.py`.


# %%
def embedding_of_time(t, dim):
    raise NotImplementedError  # your lines instead: return (B, dim)


def many_heads(qkv, heads):
    raise NotImplementedError  # your lines instead: return (B, C, L)


_ = check(EMBEDDING_OF_TIME, embedding_of_time)
_ = check(MANY_HEADS, many_heads)

# %% [markdown]
# ## What to read next
#
# `12_improved_ddpm` lets the network answer a variance too; `13_classifier_guidance` has ADM's classifier, the way down
# of this U-Net.
