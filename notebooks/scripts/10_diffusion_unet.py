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
# The noise predictor was a black box. It is the U-Net of 2015 made of residual blocks, with attention where maps are
# small; and every block is told the time ([Ho, Jain and Abbeel](https://arxiv.org/abs/2006.11239), 2020, appendix B).
# [Dhariwal and Nichol](https://arxiv.org/abs/2105.05233) (2021, section 3) changed five things: ADM. We take it apart.
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
from ddpm_path.lab import claims, datasets, plots, probing, surgery, zoo
from ddpm_path.lab.exercises import EMBEDDING_OF_TIME, MANY_HEADS, check
from ddpm_path.losses import V, as_eps
from ddpm_path.samplers import decode, start_noise
from ddpm_path.schedule import uniform_times
from ddpm_path.unet import Attention, UNet, improved_time_embedding, time_embedding

seed = lambda k: torch.Generator().manual_seed(k)
data, schedule = datasets.digits(), zoo.load("digits")[1]
network = zoo.load_network("digits")[0]  # it predicts v

# %% [markdown]
# ## Time as waves
#
# One number is a poor input: blocks want many features of size 1. So $t$ becomes the phase of $d/2$ waves,
#
# $$e(t) = (\sin\omega_i t,\ \cos\omega_i t), \qquad \omega_i = 10000^{-i/(d/2-1)}, \quad i = 0, \dots, d/2-1$$
#
# Improved DDPM and ADM put cosines first and divide by $d/2$; no weight tells which.
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
# **You should see** fast waves, which tell neighbours apart, and slow ones, which tell early from late. **If instead**
# a second peak is as high as the first, frequencies are wrong.
#
# ## How a block hears it
#
# Two layers turn $e(t)$ and a label's embedding into one vector $c$ for all blocks. DDPM *adds* a projection of it
# between a block's convolutions. ADM's AdaGN (as coded) scales and shifts what normalisation made flat:
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
# **You should see** that time opens and closes channels.
#
# ## What one output pixel sees
#
# Walk back from a pixel: a 3 x 3 convolution widens its interval by 1 at both ends, doubling halves it, stride 2
# doubles it and adds 1. The gradients of a random network must agree; then we let attention in, then normalisation.
#
# *Predict:* how wide is it?

# %%
path = "c" + "cccc" + "cd" + "cccc" + "cd" + "cccc" + "cccc" + "cc" + "h" + "cc" + "h" + "cc" + "c"  # from the end
low = high = 96
for step in path:
    low, high = {"c": (low - 1, high + 1), "d": (low // 2, high // 2), "h": (2 * low - 1, 2 * high + 1)}[step]

net = UNet(1, (8, 8, 8), head_width=8, groups=4).double()
for k, p in enumerate(net.parameters()):
    p.data = torch.randn(p.shape, generator=seed(k), dtype=torch.float64) / p[0].numel() ** 0.5
attentions, norms = ([m for m in net.modules() if isinstance(m, kind)] for kind in (Attention, torch.nn.GroupNorm))
for m in (*norms, *attentions):
    m.forward = lambda x: x
seen, x = {}, torch.randn(1, 1, 192, 192, generator=seed(1), dtype=torch.float64).requires_grad_()
for name, parts in {"convolutions": (), "and attention": attentions, "and group norm": norms}.items():
    for m in parts:
        del m.forward
    seen[name] = torch.autograd.grad(net(x, 500.0)[0, 0, 96, 96], x)[0][0, 0].abs()
assert seen["convolutions"].amax(0).nonzero()[[0, -1], 0].tolist() == [low, high]
print(f"arithmetic and gradients agree: pixels {low} to {high}, {high - low + 1} of 192")
figure = plots.maps({name: (g + 1e-16).log10() for name, g in seen.items()}, 3, "log10 |gradient|")
plots.show(figure, "A sharp square for convolutions; with attention and with group norm colour over the whole image.")

# %% [markdown]
# **You should see** a square with hard edges. Attention reaches everything; so does group normalisation, by its means.
#
# ## The published sizes
#
# Built without weights; the counts are those of the public code.

# %%
count = lambda module: sum(p.numel() for p in module.parameters())
presets = {"DDPM, CIFAR-10": unet.ddpm_cifar10, "improved DDPM, CIFAR-10": unet.improved_cifar10}
for name, preset in (presets | {f"ADM, {size} pixels": partial(unet.adm, size) for size in unet.ADM}).items():
    with torch.device("meta"):
        net = preset()
    maps = sum(count(m) for m in net.modules() if isinstance(m, Attention))
    share = (count(net.down[-1]) + count(net.middle) + count(net.up[0])) / count(net)
    print(f"{name:23} {count(net):11,}: {share:.0%} at the lowest level, {maps / count(net):.0%} in attention")

# %% [markdown]
# ## Take parts away
#
# Our digits network has two levels. Without training again we blank the skips of one, silence attention, or freeze
# time at 500. And a famous mistake, on purpose: the other order of waves, as when one code's weights are read into
# another's network. Nothing complains.
#
# The truth for frozen time: the best denoiser of the training digits, told 500 at all levels.
#
# *Predict:* what hurts at little noise, what at much?

# %%
cut = {"whole": network, "no fine skips": surgery.without_skips(network, -1)}
cut |= {"no coarse skips": surgery.without_skips(network, 0), "no attention": surgery.without_attention(network)}
cut |= {"no time": surgery.with_embedding(network, lambda t, dim: time_embedding(torch.full_like(t, 500.0), dim))}
cut |= {"waves swapped": surgery.with_embedding(network, improved_time_embedding)}
nets = {name: as_eps(net, V, schedule) for name, net in cut.items()}
heart, times = probing.by_heart(data, schedule), (5, 30, 100, 250, 500, 750, 950)
exact = {"exact": heart, "exact, no time": lambda x, t, label: heart(x, torch.full_like(t, 500.0), label)}
test, train = (data.test[:64], data.test_labels[:64]), (data.train[:64], data.train_labels[:64])
errors = {name: probing.loss_by_level(net, schedule, *test, times) for name, net in nets.items()}
for name in nets:
    print(f"{name:15} error over the whole network's:", *(f"{r:6.2f}" for r in errors[name] / errors["whole"]))
errors |= {name: probing.loss_by_level(net, schedule, *train, times) for name, net in exact.items()}
axes = (figure := plots.curves(times, errors, "t", "mean squared error of eps")).axes[0]
axes.lines[-2].set(color="black", linestyle=":")
axes.lines[-1].set(color="black", linestyle="--")
axes.set(yscale="log", ylim=(5e-4, 3))
axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(figure, "Errors over t: without fine skips or time, or with swapped waves, far above the whole network.")

# %%
labels, noise = torch.arange(10), start_noise(10, (1, 16, 16), seed(0))
rows = [decode(partial(net, label=labels), schedule, noise, uniform_times(1000, 20)) for net in nets.values()]
plots.show(plots.grid(torch.cat(rows), 10, rows=tuple(nets)), "Digits, whole; in heavy grain without fine skips.")

# %% [markdown]
# **You should see** that fine skips carry the detail: without them errors grow up to 16-fold, without time 3- to 6-fold
# except at 500. Not even a perfect denoiser can do without $t$. Coarse skips and attention are worth 1 to 4% here.
# Swapped waves cost up to 9-fold, yet the speckled digits could pass a glance.
#
# ## Where attention looks
#
# `edit` stands in for softmax$(q k^\top/\sqrt d)v$, so it can read the maps: the MNIST network's middle has 7 x 7
# positions.
#
# *Predict:* does a position look at its neighbours, at its like, or elsewhere?

# %%
mnist, image, kept = zoo.load_network("mnist")[0], datasets.mnist_sample()[0][[0]], {}


def read(q, k, v):
    kept["map"] = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)  # (1, heads, 49, 49)
    return kept["map"] @ v


mnist.middle[0].attention.edit, panels = read, {}
for t in (50, 500, 950):
    mnist(q_sample(image, torch.randn(image.shape, generator=seed(0)), schedule(t)), float(t))
    weights = kept["map"][0].mean(0)
    print(f"t = {t}: a position looks at {(-(weights * weights.log()).sum(1)).exp().mean():.0f} of 49")
    panels |= {f"t = {t}, from {where}": weights[i].view(7, 7) for where, i in (("the corner", 0), ("the middle", 24))}
plots.show(plots.maps(panels, 6, "weight"), "Maps of 7 x 7 weights: a few bright cells, mostly the same from both.")

# %% [markdown]
# **You should see** few bright cells, up to $t = 500$ the same from both: whoever asks, attention fetches something
# about the image as a whole.
#
# ## ADM's choices, at the scale of digits
#
# Six small networks, three seeds each, trained alike for 200 steps: the base, and one each with added conditioning, 4
# heads, attention at both levels, residual blocks that resample (BigGAN), residual sums divided by $\sqrt 2$. ADM found
# all but the last to help, by FID. We compare $L$, the error of eps on test digits.
#
# *Predict:* which of the five will hold?

# %%
x0, true, loss = data.test.repeat(5, 1, 1, 1), data.test_labels.repeat(5), {}
eps, t = torch.randn(x0.shape, generator=seed(0)), torch.linspace(1, 1000, len(x0))
x_t = q_sample(x0, eps, schedule(t))
for name in ("base", "added", "heads", "attention", "resampling", "rescaling"):
    nets = [zoo.load_network(f"{name}-{k}", zoo.ZOO / "choices")[0] for k in range(3)]  # they predict eps
    loss[name] = torch.stack([(net(x_t, t, true) - eps).square().mean() for net in nets])
    print(f"{name:10} {count(nets[0]):,} parameters, L:", *(f"{value:.4f}" for value in loss[name]))
pairs = {"adaptive-norm": ("added", "base"), "heads": ("base", "heads"), "attention": ("base", "attention")}
pairs |= {"resampling": ("base", "resampling"), "rescaling": ("rescaling", "base")}
for key, (worse, better) in pairs.items():
    margins = (loss[worse] / loss[better]).log()
    claims.measure(f"adm-{key}", margins.mean(), margins.std() / 3**0.5)

# %% [markdown]
# **You should see** small margins: after 200 steps rescaling costs 1.4%, 4 heads gain a hundredth of a percent
# (attention has hardly begun), and the rest is undecided.
#
# ## Published weights
#
# `zoo.from_published(path)` reads DDPM, improved DDPM and ADM from a file you downloaded, in diffusers' or OpenAI's
# layout; its `eps` goes into any sampler.
#
# ## Exercises
#
# Write (1) DDPM's embedding of time; (2) attention of several heads from `qkv` (B, 3 C, L): all queries, then all keys,
# then all values. Solutions: `ddpm_path/lab/exercises/diffusion_unet.py`.


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
# [`12_improved_ddpm`](12_improved_ddpm.ipynb) lets it answer a variance too;
# [`13_classifier_guidance`](13_classifier_guidance.ipynb) makes its way down a classifier.
