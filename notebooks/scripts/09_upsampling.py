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
# # 09 · Up-sampling and its checkerboards
#
# A U-Net goes down to few pixels and up again. Down is a strided convolution; up is often a *transposed convolution*,
# misnamed deconvolution. [Dumoulin and Visin](https://arxiv.org/abs/1603.07285) (2016) wrote down the arithmetic of
# both. [Odena, Dumoulin and Olah](https://distill.pub/2016/deconv-checkerboard/) (2016) showed what goes wrong on the
# way up: a checkerboard over the image, which can be foretold from two numbers.
#
# Reading: both papers; *Up-sampling with transposed convolution* (blog). 08 and 10 build on it.

# %%
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ddpm_path import convolution as cv
from ddpm_path.lab import claims, datasets, plots
from ddpm_path.lab.exercises import OVERLAP, TRANSPOSED, check
from ddpm_path.lab.train import maximise

seed = lambda k: torch.Generator().manual_seed(k)
randn = partial(torch.randn, generator=seed(0), dtype=torch.float64)

# %% [markdown]
# ## The arithmetic
#
# Along one axis: input size $i$, kernel size $k$, stride $s$, padding $p$, dilation $d$ (1 if the kernel has no gaps)
# lead to the output size [rel. 15]
#
# $$o = \left\lfloor \frac{i + 2p - d(k-1) - 1}{s} \right\rfloor + 1$$
#
# The floor forgets: $s$ sizes share one output. The way back needs what was lost; for $d = 1$ it is
# $a = (i + 2p - k) \bmod s$ [rel. 14]:
#
# $$i = s(o - 1) + a + k - 2p$$
#
# torch calls $a$ `output_padding`.
#
# *Predict before you run:* which sizes does $k = 3, s = 2, p = 1$ halve, and to what do they come back without $a$?


# %%
def down(i, k, s, p, d=1):
    return (i + 2 * p - d * (k - 1) - 1) // s + 1


def back(o, k, s, p, a):
    return s * (o - 1) + a + k - 2 * p


for i, k, s, p in ((5, 3, 2, 1), (6, 3, 2, 1), (7, 3, 2, 1), (8, 3, 2, 1), (28, 5, 3, 0), (28, 4, 2, 1)):
    o, a = down(i, k, s, p), (i + 2 * p - k) % s
    assert o == cv.output_size(i, k, s, p) and a == cv.output_padding(i, k, s, p)
    assert i == back(o, k, s, p, a) == cv.transposed_size(o, k, s, p, output_padding=a)
    assert o == F.conv1d(torch.zeros(1, 1, i), torch.zeros(1, 1, k), None, s, p).shape[2]
    print(f"k = {k}, s = {s}, p = {p}: {i} to {o}; back to {back(o, k, s, p, 0)} without a, with a = {a} to {i}")

# %% [markdown]
# **You should see** 5 and 6 both become 3, and 6 come back as 5: the famous mistake. A U-Net then fails where its two
# ways join.
#
# ## A convolution is a matrix, and the way back its transpose
#
# A convolution is linear: flatten the image, and it is a matrix $W$. The gradient that it sends back to its input is
# $W^\top u$. *That* is the transposed convolution, defined by $\langle Wx, u\rangle = \langle x, W^\top u\rangle$.

# %%
size, stride, padding = (5, 6), 2, 1
weight, x = randn(1, 1, 3, 3), randn(1, 1, *size, requires_grad=True)
y = F.conv2d(x, weight, None, stride, padding)
rows = []
for place in torch.cartesian_prod(*map(torch.arange, y.shape[2:])):  # each output, through which weight, reads what
    row = torch.zeros(size[0] + 2, size[1] + 2, dtype=torch.float64)
    top, left = (stride * place).tolist()
    row[top : top + 3, left : left + 3] = weight[0, 0]
    rows.append(row[1:-1, 1:-1].flatten())  # what stood on the padding is gone
W = torch.stack(rows)
torch.testing.assert_close(W, cv.matrix(weight, size, stride, padding))
torch.testing.assert_close(W @ x.flatten(), y.flatten())

u = randn(*y.shape)
up = cv.transposed(u, weight, size, stride, padding)
torch.testing.assert_close(up.flatten(), W.T @ u.flatten())
torch.testing.assert_close(up, torch.autograd.grad(y, x, u)[0])
torch.testing.assert_close(up, cv.by_convolution(u, weight, size, stride, padding))  # zeros between, kernel flipped
torch.testing.assert_close((y * u).sum(), (x * up).sum())
figure = plots.grid(W[None, None].sign() * W.abs().clamp(max=1) ** 0.5, 1, zoom=5)
plots.show(figure, "A matrix of 9 rows and 30 columns: the same nine greys step to the right from row to row.")
print(f"u begins with {u.flatten()[0]:.2f}; sent back and convolved again, with {(W @ W.T @ u.flatten())[0]:.2f}")

# %% [markdown]
# **You should see** one kernel on a staircase: nine numbers, black to white, on grey zeros. Transposing undoes shapes,
# not values: -0.40 comes back as 1.59. It is no deconvolution.
#
# ## Bilinear, as FCN starts
#
# With a tent for a kernel the transposed convolution interpolates. FCN (notebook 08) begins with it and learns on.

# %%
image = randn(1, 1, 6, 6)
for factor in (2, 3, 4, 8):
    layer = cv.bilinear_layer(factor)
    ours = F.conv_transpose2d(image, cv.bilinear_weight(1, layer.kernel), None, layer.stride, layer.padding)
    torchs = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
    off, inner = (ours - torchs).abs()[0, 0], slice(factor, -factor)
    print(f"x{factor}: k = {layer.kernel}; off by {off[inner, inner].max():.0e} inside, {off.max():.1f} at the border")

# %% [markdown]
# **You should see** rounding inside. At the border it reads zeros where interpolation repeats the edge.
#
# ## Checkerboards, foretold
#
# Let all weights and inputs be 1: each output counts the inputs that it adds up. In one dimension that is the number
# of weights $j < k$ with $j \equiv r$ modulo $s$, for each phase $r$, the output's place modulo $s$. It is even only if
# $s$ divides $k$. In two dimensions patterns multiply.
#
# *Predict:* the counts of $k = 3, s = 2$. Of $k = 5, s = 3$. Of $k = 4, s = 2$.

# %%
boards = {}
for kernel, stride, padding in ((3, 2, 1), (5, 3, 2), (4, 2, 1), (5, 2, 2)):
    line = F.conv_transpose1d(torch.ones(1, 1, 12), torch.ones(1, 1, kernel), None, stride, padding)[0, 0].double()
    pattern = cv.overlap(kernel, stride, padding)
    assert torch.equal(line[2 * stride : 3 * stride], pattern)
    boards[f"k{kernel} s{stride}"] = plane = torch.outer(*[pattern.repeat(24 // stride)] * 2)
    print(f"k = {kernel}, s = {stride}: {line[6:14].int().tolist()}; in the plane {plane.unique().int().tolist()}")
twice = F.conv_transpose2d(torch.ones(1, 1, 10, 10), torch.ones(1, 1, 3, 3), None, 2, 1)
twice = F.conv_transpose2d(twice, torch.ones(1, 1, 3, 3), None, 2, 1)[..., 5:29, 5:29]
boards["k3 s2 twice"] = twice[0, 0]
shades = torch.stack([(board / board.mean() - 1).clamp(-1, 1).float() for board in boards.values()])  # the mean is grey
figure = plots.grid(shades[:, None], 5, tuple(boards), zoom=2)
plots.show(figure, "Five patterns: a checkerboard, a coarser one, plain grey, a fainter one, and one of two scales.")

# %% [markdown]
# **You should see** 1, 2, 1, 2; then 1, 2, 2; then a constant. Layers stacked make patterns on several scales.
#
# ## Seen in a generator that knows nothing
#
# How much of an image is checkerboard? What repeats every $s$ pixels stands, in its spectrum, at the frequencies
# $(m/s, n/s)$: for $s = 2$, $(0, \frac12)$, $(\frac12, 0)$, $(\frac12, \frac12)$. `checkerboard_energy` is their share
# of the image's variance. White noise of 16x16 pixels has 3 of 255 frequencies, 0.012.
#
# *Predict:* rank three layers: $k = 3$; $k = 4$; nearest-neighbour resizing, then convolving.

# %%
ways = {
    "k = 3": lambda a, b: nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1),
    "k = 4": lambda a, b: nn.ConvTranspose2d(a, b, 4, stride=2, padding=1),
    "resize": lambda a, b: cv.resize_convolution(a, b, kernel=3, factor=2),
}


def generator(up, k):
    _ = torch.manual_seed(k)
    return nn.Sequential(nn.Linear(16, 512), nn.ReLU(), nn.Unflatten(1, (32, 4, 4)), up(32, 16), nn.ReLU(), up(16, 1))


def energies(images):
    return cv.checkerboard_energy(images.detach(), period=2).mean()


def measure(key, this, other):
    margins = (this / other).log2()
    claims.measure(key, margins.mean(), margins.std() / len(margins) ** 0.5)


z = torch.randn(200, 16, generator=seed(0))
fresh = {name: torch.stack([energies(generator(up, k)(z)) for k in range(10)]) for name, up in ways.items()}
for name, energy in fresh.items():
    print(f"untrained, {name:6}: energy {energy.mean():.4f}, from {energy.min():.4f} to {energy.max():.4f}")
measure("checkerboard-untrained", fresh["k = 3"], fresh["resize"])
rows = torch.cat([generator(up, 0)(z[:10]).detach() for up in ways.values()])
rows = rows - rows.mean((1, 2, 3), keepdim=True)
figure = plots.grid(rows / rows.abs().amax((1, 2, 3), keepdim=True), 10, rows=tuple(ways))
plots.show(figure, "Untrained images in three rows: regular dots with k = 3 and k = 4, soft blots after resizing.")

# %% [markdown]
# **You should see** a third of the variance, a quarter, half a percent. With $k = 4$ counts are even, but each phase
# has weights of its own, and random ones do not agree. After resizing all phases share them.
#
# ## And after training
#
# Now they learn to decode digits from 16 numbers that an encoder squeezes them into, for five seeds each.
#
# *Predict:* does learning remove what the layer puts in?

# %%
data = datasets.digits()


def autoencoder(up, k):
    decoder = generator(up, k)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 16))
    net, draw = nn.Sequential(encoder, decoder), seed(k)

    def objective():
        x = data.train[torch.randint(len(data.train), (64,), generator=draw)]
        return -(net(x) - x).square().mean()

    maximise(objective, net.parameters(), steps=400, lr=2e-3, label=f"seed {k}")
    return net(data.test).detach()


copies = {name: [autoencoder(up, k) for k in range(5)] for name, up in ways.items()}
trained = {name: torch.stack([energies(x) for x in of_seed]) for name, of_seed in copies.items()}
print(f"real test digits: energy {energies(data.test):.5f}")
for name, energy in trained.items():
    error = (torch.stack(copies[name]) - data.test).square().mean()
    print(f"trained, {name:6}: energy {energy.mean():.5f}, squared error {error:.4f}")
measure("checkerboard-trained", trained["k = 3"], trained["resize"])
measure("checkerboard-divides", trained["k = 4"], trained["resize"])

# %%
some = [124, 263, 192, 56, 225, 51, 266, 287, 128, 52]
rows = torch.cat([data.test[some], *(of_seed[0][some] for of_seed in copies.values())])
plots.show(plots.grid(rows, 10, rows=("digits", *ways)), "Ten test digits and three rows of soft copies of them.")
power = [torch.fft.fft2(x).abs().square().mean(0) for x in (data.test, *map(torch.cat, copies.values()))]
for name, spectrum in zip(("digits", *ways), power, strict=True):
    print(f"{name:6}: power at (1/2, 0) {spectrum[0, 8, 0]:5.2f}, at (1/2, 1/2) {spectrum[0, 8, 8]:.3f}")
levels = torch.fft.fftshift(torch.stack(power), (2, 3)).log10()
figure = plots.grid(((levels + 1) / 2.5 - 1).clamp(-1, 1), 4, ("digits", *ways), zoom=2)
plots.show(figure, "Four spectra, bright in the middle; dark at the rim, but grey there with k = 3 and k = 4.")

# %% [markdown]
# **You should see** no checkerboard any more. With transposed convolutions energies are a thousandth of what they were,
# as low as the digits' own; resizing gives less, its copies are smoother. Digits have power at (1/2, 0), but
# hardly any at (1/2, 1/2), the checkerboard proper. There transposed convolutions leave twelve times the digits' power;
# resizing does not. A squared error fights checkerboards directly; a GAN's loss, which Odena looked at, does so less.
#
# ## Gradients have it too
#
# The gradient of a strided convolution *is* a transposed one: with $k = 3, s = 2$ pixels get 2, 4, 2, 4 gradients, and
# 1, 2, 1, 2 in the rows between. Whatever is optimised in pixels (guidance by a classifier, notebook 13) inherits that.

# %%
for name, kernel, padding in (("k = 3", 3, 1), ("k = 4", 4, 1)):
    x = torch.zeros(1, 1, 16, 16, requires_grad=True)
    F.conv2d(x, torch.ones(1, 1, kernel, kernel), None, 2, padding).sum().backward()
    print(f"{name}, s = 2: a row of the input's gradient: {x.grad[0, 0, 7].int().tolist()}")

# %% [markdown]
# ## Exercises
#
# 1. The counts of one period, (stride,) in float64: output $r$ of the full result is phase $r$, and `padding` cuts off
#    the first ones.
# 2. The transposed convolution in one dimension: `u` (o,), `w` (k,) to `size` numbers.
#
# Solutions: `ddpm_path/lab/exercises/convnet.py`.


# %%
def my_overlap(kernel, stride, padding):
    raise NotImplementedError  # your lines instead: return the counts


def my_transposed(u, w, size, stride, padding):
    raise NotImplementedError  # your lines instead: return what goes back, (size,)


_ = check(OVERLAP, my_overlap)
_ = check(TRANSPOSED, my_transposed)

# %% [markdown]
# ## What to read next
#
# Odena's page has the pictures of GANs. Then [`10_diffusion_unet`](10_diffusion_unet.ipynb): DDPM's U-Net resizes, then
# convolves.
