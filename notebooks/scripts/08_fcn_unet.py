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
# # 08 · FCN and the first U-Net
#
# DDPM's network is a U-Net: an image in, an image of the same size out. Where does it come from?
#
# [Long, Shelhamer and Darrell](https://arxiv.org/abs/1411.4038) (2014) made a classifier *fully convolutional*: run
# over a larger image, it answers a map of scores, which is up-sampled and sharpened by scores from finer layers.
# [Ronneberger, Fischer and Brox](https://arxiv.org/abs/1505.04597) (2015) gave the way up as many channels as the way
# down and handed it whole feature maps, not scores.
#
# Reading: both papers; the video *Understanding the U-Net architecture and building it from scratch*.

# %%
import copy
from functools import partial
from itertools import product

import torch
from matplotlib import colormaps
from torch import nn

from ddpm_path.lab import claims, datasets, metrics, plots, zoo
from ddpm_path.lab.exercises import BORDER_WEIGHTS, UNET_SIZE, check
from ddpm_path.lab.scenes import BACKGROUND, touching_digits
from ddpm_path.segmentation import FCN, UNet2015, border_weights, convolution_of, valid_output

seed = lambda k: torch.Generator().manual_seed(k)
_ = torch.manual_seed(0)

# %% [markdown]
# ## A classifier, slid over the image
#
# A fully connected layer that reads a 3x3 map *is* a 3x3 convolution with the same weights, at its only place. Given
# a larger image it has more places: one pass is the classifier at every window, without computing overlaps twice.
#
# *Predict before you run:* are scores the same if the trunk pads its convolutions?

# %%
x, fc1, fc2 = torch.randn(1, 2, 34, 34).double(), nn.Linear(45, 7).double(), nn.Linear(7, 4).double()
for padding in (0, 1):
    pair = [nn.Conv2d(2, 4, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
    trunk = nn.Sequential(*pair, nn.Conv2d(4, 5, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2)).double()
    n = 12 if padding else 18  # a window that leaves 3x3

    def classifier(window):
        return fc2(fc1(trunk(window).flatten(1)).relu())

    scores = convolution_of(fc2, 1)(convolution_of(fc1, 3)(trunk(x)).relu())
    places = list(product(*map(range, scores.shape[2:])))
    windows = torch.cat([x[..., 4 * i : 4 * i + n, 4 * j : 4 * j + n] for i, j in places])
    off = (scores[0].flatten(1).T - classifier(windows)).abs().max()
    print(f"padding {padding}: {len(places)} windows, one pass is off by {off:.0e} of {scores.abs().max():.1f}")
    assert padding or off < 1e-12

# %% [markdown]
# **You should see** rounding, then a real difference: a padded window sees zeros where its neighbours are.
#
# ## FCN: 32, 16, 8
#
# After VGG-16's five poolings scores are 32 pixels apart. FCN-32s interpolates them. FCN-16s doubles them and adds
# scores made from the fourth pooling, a *skip*; FCN-8s repeats this with the third. 100 pixels of padding let the 7x7
# head find windows in small images. Maps must then be cropped so that pixels meet: keep for each the place of its first
# unit and the distance to the next.

# %%
start, step = 0.0, 1
for k, s, p in [(3, 1, 100), *[(2, 2, 0)] * 5, (7, 1, 0)]:  # all other convolutions keep the size and move nothing
    start, step = start + step * ((k - 1) / 2 - p), step * s
up = start - (64 - 1) / 2  # up-sampling by 32 lays 64 outputs around each score: here the very first
with torch.device("meta"):  # shapes only
    nets = {stride: FCN(stride=stride) for stride in (32, 16, 8)}
assert -up == nets[32].offsets[-1]  # so many outputs lie before pixel 0
for stride, net in nets.items():
    parameters = sum(p.numel() for p in net.parameters()) / 1e6
    print(f"FCN-{stride}s: crops {net.offsets}, {parameters:.1f} million parameters, a unit sees {net.field.size}")
    assert net(torch.empty(1, 3, 500, 375, device="meta")).shape == (1, 21, 500, 375)

# %% [markdown]
# **You should see** the crops of the published files: 19; 5 and 27; 5, 9 and 31.
#
# ## U-Net: no padding at all
#
# Two 3x3 convolutions take 4 pixels, pooling halves, a 2x2 up-convolution doubles. The skip is larger than what comes
# from below: its middle is cut out and *concatenated*.
#
# *Predict:* 572 pixels go in. How many come out?

# %%
n, down = 572, []
for _ in range(4):
    down.append(n - 4)
    n = (n - 4) // 2
n -= 4
for skip in reversed(down):
    print(f"skip {skip} cropped to {2 * n}, then {2 * n - 4}")
    n = 2 * n - 4
with torch.device("meta"):
    unet = UNet2015()
assert n == valid_output(572) == unet(torch.empty(1, 1, 572, 572, device="meta")).shape[-1]
print(sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in unet.modules()), "convolutions;", end=" ")
try:
    unet(torch.empty(1, 1, 512, 512, device="meta"))  # the famous mistake: any size, please
except ValueError as error:
    print(error)

# %% [markdown]
# ## A task: digits that all but touch
#
# Name each pixel: one of ten digits, or background. Between neighbours one pixel may be left. Eq. 2 weighs it:
#
# $$w = w_c + w_0 \exp\!\left(-\frac{(d_1 + d_2)^2}{2\sigma^2}\right)$$
#
# with the distances to the nearest and second nearest digit; $w_c$ balances classes, here 1; $w_0 = 10$. The paper's
# $\sigma$ is 5 pixels; our digits are small: 2.

# %%
data = datasets.digits()
world = touching_digits(data.test, data.test_labels, 200, seed(1))
scene, grid = world.instances[0], torch.cartesian_prod(torch.arange(48), torch.arange(48)).double()
near = torch.stack([torch.cdist(grid, (scene == k).nonzero().double()).amin(1) for k in range(1, 6)])
d1, d2 = near.sort(0).values[:2]
by_hand = (1 + 10 * torch.exp(-((d1 + d2) ** 2) / (2 * 2**2))).view(48, 48)
torch.testing.assert_close(by_hand, border_weights(scene, sigma=2))
palette = torch.cat([torch.tensor(colormaps["tab10"].colors), torch.zeros(1, 3)])


def paint(classes):
    return 2 * palette[classes].permute(0, 3, 1, 2).float() - 1


weights = torch.stack([border_weights(each, sigma=2) for each in world.instances[:6]])[:, None] / 4 - 1
rows = [world.images[:6].expand(-1, 3, -1, -1), paint(world.classes[:6]), weights.float().expand(-1, 3, -1, -1)]
figure = plots.grid(torch.cat(rows), 6, zoom=2, rows=("image", "classes", "weights"))
plots.show(figure, "Six scenes of five digits; their masks, a colour a class; weights, bright between neighbours.")

# %% [markdown]
# ## Trained
#
# Five narrow networks of the zoo (16 to 128 channels), each trained for minutes on scenes of 20 digits; FCNs were
# classifiers of single digits first. Digits have 16 pixels: three poolings do, and strides 8, 4, 2 stand for 32, 16, 8.
# The U-Net has two poolings; what it needs around a scene is mirrored, as in the paper. The measure is intersection
# over union (IoU), mean over the digits' classes: the easy background does not count.
#
# *Predict:* which FCN can follow a stroke of three pixels?

# %%
names = ("fcn-8s", "fcn-4s", "fcn-2s", "unet", "unet-borders")
score = {name: zoo.load_segmenter(f"scenes-{name}") for name in names}
seen = {name: metrics.segment(net, world.images) for name, net in score.items()}
counts = {name: metrics.confusion(masks, world.classes, 11) for name, masks in seen.items()}
iou = partial(metrics.mean_iou, classes=10)
for name, each in counts.items():
    print(f"{name:12}: mean IoU {iou(each):.3f}, {zoo.card(f'scenes-{name}')['parameters']:,} parameters")
rows = [world.images[:6].expand(-1, 3, -1, -1), paint(world.classes[:6])]
rows += [paint(seen[name][:6]) for name in names[:4]]
figure = plots.grid(torch.cat(rows), 6, zoom=2, rows=("image", "truth", *names[:4]))
plots.show(figure, "Six scenes, their masks and four guesses: blots, ragged strokes, strokes, and nearly the truth.")

# %%
finer = [metrics.bootstrap_difference(iou, counts[a], counts[b]) for a, b in (names[1::-1], names[2:0:-1])]
claims.measure("fcn-strides", *min(finer), "4s - 8s, 2s - 4s: " + ", ".join(f"{gain:+.3f}" for gain, _ in finer))
claims.measure("unet-fcn", *metrics.bootstrap_difference(iou, counts["unet"], counts["fcn-2s"]))

# %% [markdown]
# **You should see** blots become strokes: 0.46, 0.68, 0.88, then 0.95. **If instead** classes are wrong where shapes
# are right, training was short: after 800 steps our U-Net had 0.12, FCN-2s, a classifier before, 0.56.
#
# ## Without skips
#
# We take skips from the trained networks, one by one: zeros instead.
#
# *Predict:* which skip is missed most, the finest or the coarsest?

# %%
cuts = {
    "U-Net, no fine skip": partial(score["unet"], cut=[0]),
    "U-Net, no coarse skip": partial(score["unet"], cut=[1]),
}
cuts["U-Net, no skips"] = partial(score["unet"], cut=[0, 1])
for level, name in enumerate(("coarse", "fine")):
    cuts[f"FCN-2s, no {name} skip"] = net = copy.deepcopy(score["fcn-2s"])
    for p in net.lateral[level].parameters():
        nn.init.zeros_(p)
rows = [paint(seen["unet"][:6])]
for name, net in cuts.items():
    masks = metrics.segment(net, world.images)
    counts[name] = metrics.confusion(masks, world.classes, 11)
    rows.append(paint(masks[:6]))
    print(f"{name:22}: mean IoU {iou(counts[name]):.3f}")
figure = plots.grid(torch.cat(rows), 6, zoom=2, rows=("U-Net", *cuts))
plots.show(
    figure, "Masks of six scenes: nearly right whole, clouds of colour without fine skips, patchy without coarse."
)
lost = [metrics.bootstrap_difference(iou, counts["unet"], counts[name]) for name in list(cuts)[:2]]
claims.measure("unet-skips", *min(lost), "fine, coarse: " + ", ".join(f"{loss:+.3f}" for loss, _ in lost))

# %% [markdown]
# **You should see** the finest missed most: without it the U-Net does not even find the ink. This tells what a network
# uses, not what another, trained without skips, could have learned.
#
# ## What border weights buy
#
# *Predict:* they raise the loss at the ridge, background within two pixels of two digits. What do they cost elsewhere?

# %%
ridge, ink = world.borders, world.classes != BACKGROUND
kept = {}
for name in ("unet", "unet-borders"):
    background = seen[name] == BACKGROUND
    kept[name] = torch.stack([(background & ridge).sum((1, 2)), ridge.sum((1, 2))], 1)
    share = lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum())
    missed = (background & ink).sum() / ink.sum()
    print(f"{name:12}: ridge kept {share(kept[name]):.3f}, ink missed {missed:.3f}, mean IoU {iou(counts[name]):.3f}")
claims.measure("unet-borders", *metrics.bootstrap_difference(share, kept["unet-borders"], kept["unet"]))

# %% [markdown]
# **You should see** no difference: 99.5% of the ridge is kept without help. Here brightness alone tells ink from
# background; between the paper's cells it does not.
#
# ## Exercises
#
# 1. How many pixels does an unpadded U-Net answer for `size` pixels, as a float64 tensor? Walk through it.
# 2. Eq. 2 with $w_c = 1$, from the distances `(cells, H, W)` of each pixel to each cell.
#
# Solutions: `ddpm_path/lab/exercises/convnet.py`.


# %%
def unet_size(size, depth):
    raise NotImplementedError  # your lines instead: return the pixels


def my_weights(distances, w0, sigma):
    raise NotImplementedError  # your lines instead: return the weights, (H, W)


_ = check(UNET_SIZE, unet_size)
_ = check(BORDER_WEIGHTS, my_weights)

# %% [markdown]
# ## What to read next
#
# Section 2 of the U-Net paper, one page. Then [`09_upsampling`](09_upsampling.ipynb), and
# [`10_diffusion_unet`](10_diffusion_unet.ipynb), where padding returns and the time comes in.
