"""FCN and the 2015 U-Net: published geometry, alignment by gradients, the sliding window, eq. 2 by brute force."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import close, rand, randn
from torch import nn

from ddpm_path import segmentation as sg
from ddpm_path.segmentation import FCN, UNet2015, valid_output, whole

NARROW = {"channels": 1, "classes": 3, "widths": (4, 4, 4, 4, 4), "convs": (1, 1, 1, 1, 1), "head": 6, "dropout": 0.0}


def paper(stride):
    with torch.device("meta"):  # shapes without the 134 million numbers
        return FCN(stride=stride)


# FCN [Long 2014].


@pytest.mark.parametrize(("stride", "offsets"), [(32, [19]), (16, [5, 27]), (8, [5, 9, 31])])
def test_crop_offsets_computed_are_the_published_ones(stride, offsets):
    assert paper(stride).offsets == offsets


def test_layers_are_vgg16s():
    net = paper(8)
    trunk = [conv for conv in net.stages.modules() if isinstance(conv, nn.Conv2d)]
    assert [conv.out_channels for conv in trunk] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [conv.padding for conv in trunk] == [(100, 100)] + [(1, 1)] * 12
    assert sum(p.numel() for p in net.stages.parameters()) == 14_714_688  # VGG-16 without its head
    assert [conv.weight.shape for conv in net.head if isinstance(conv, nn.Conv2d)] == [
        (4096, 512, 7, 7),
        (4096, 4096, 1, 1),
        (21, 4096, 1, 1),
    ]
    assert [conv.weight.shape for conv in net.lateral] == [(21, 512, 1, 1), (21, 256, 1, 1)]
    assert (net.field.size, net.field.jump) == (404, 32)
    assert "kernel" not in net.state_dict()  # the last up-sampling is fixed


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("size", [(500, 375), (64, 61), (224, 223)])
def test_scores_cover_the_image_pixel_by_pixel(stride, size):
    x = torch.empty(1, 3, *size, device="meta")
    assert paper(stride)(x).shape == (1, 21, *size)


def averaging(net):
    """Max pooling made average pooling and all convolutions ones: linear on positive numbers, symmetric all through."""
    for stage in net.stages if hasattr(net, "stages") else []:
        stage[-1] = nn.AvgPool2d(2, ceil_mode=True)
    for p in net.parameters():
        nn.init.ones_(p) if p.ndim > 1 else nn.init.zeros_(p)
    return net.double().eval()


@pytest.mark.parametrize(("window", "padding"), [(3, 33), (1, 1)])
@pytest.mark.parametrize("branch", [0, 1, 2])
def test_each_branch_of_fcn_8s_stands_where_its_pixels_do(branch, window, padding):
    """What one period of output sees is centred on it, for each branch alone: one unit of crop would shift it by 8."""
    net = averaging(FCN(**NARROW, stride=8, window=window, padding=padding))
    kernel = sg.bilinear_weight(3, 4)
    for double in net.doublings:
        double.weight.data = kernel.clone()
    for i, score in enumerate((net.head[-1], net.lateral[0], net.lateral[1])):
        score.weight.data *= float(i == branch)
    x = rand(1, 1, 320, 320).requires_grad_()
    net(x)[..., 144:176, 144:176].sum().backward()
    seen = x.grad[0, 0]
    place = torch.arange(320, dtype=torch.float64)
    close((seen.sum(1) * place).sum() / seen.sum(), 159.5)
    close((seen.sum(0) * place).sum() / seen.sum(), 159.5)


def test_a_fresh_fcn_answers_zero_and_starts_bilinear():
    net = FCN(**NARROW, stride=8, window=3, padding=33)
    assert torch.equal(net(torch.randn(1, 1, 64, 64)), torch.zeros(1, 3, 64, 64))
    for double in net.doublings:
        assert torch.equal(double.weight, sg.bilinear_weight(3, 4).float())
        assert double.weight.requires_grad  # learned from there on


@pytest.mark.parametrize("size", [(24, 32), (33, 26)])
@pytest.mark.parametrize("stride", [8, 4, 2])
def test_fcn_layer_by_layer(stride, size):
    """As the paper's sec. 4 tells it, with torch's functions: three stages of unlike widths, random score layers."""
    torch.manual_seed(0)
    net = FCN(2, 3, stride, widths=(4, 5, 6), convs=(1, 2, 1), head=7, window=3, padding=12).double().eval()
    for score in (net.head[-1], *net.lateral):
        nn.init.normal_(score.weight)
        nn.init.normal_(score.bias)
    x, pools = randn(2, 2, *size), []
    h = x
    for stage in net.stages:
        for conv in [m for m in stage if isinstance(m, nn.Conv2d)]:
            h = F.conv2d(h, conv.weight, conv.bias, padding=12 if conv.in_channels == 2 else 1).relu()
        h = F.max_pool2d(h, 2, ceil_mode=True)
        pools.append(h)
    first, second, score = (m for m in net.head if isinstance(m, nn.Conv2d))
    for conv in (first, second):
        h = F.conv2d(h, conv.weight, conv.bias).relu()
    h = F.conv2d(h, score.weight, score.bias)
    close(net.classify(x), h)
    *crops, last = net.offsets
    for double, lateral, offset, pool in zip(net.doublings, net.lateral, crops, pools[-2::-1], strict=False):
        h = F.conv_transpose2d(h, double.weight, stride=2)
        finer = F.conv2d(pool, lateral.weight, lateral.bias)
        h = h + finer[..., offset : offset + h.shape[2], offset : offset + h.shape[3]]
    weight = sg.bilinear_weight(3, 2 * stride)
    close(net(x), F.conv_transpose2d(h, weight, stride=stride)[..., last : last + size[0], last : last + size[1]])


def test_fine_scores_reach_the_answer_only_where_they_are_fused():
    x = torch.randn(1, 1, 64, 64)
    for stride in (32, 16, 8):
        torch.manual_seed(0)
        net = FCN(**NARROW, stride=stride, window=3, padding=33).eval()
        assert [len(net.lateral), net.factor] == [{32: 0, 16: 1, 8: 2}[stride], stride]
        for lateral in net.lateral:
            nn.init.constant_(lateral.bias, 1.0)  # a constant 1 from each: doubled, it stays 1 inside
        close(net(x)[0, 0, 32, 32].item(), float(len(net.lateral)), atol=1e-5)


def test_illegal_fcns_and_sizes_are_met_with_legal_ones():
    with pytest.raises(ValueError, match="a stride among 32, 16, 8, 4, 2"):
        FCN(**NARROW, stride=12)
    with pytest.raises(ValueError, match="leaves the border without scores: give 17"):
        FCN(**NARROW, stride=32, window=3, padding=1)
    FCN(**NARROW, stride=32, window=3, padding=17)
    net = FCN(**NARROW, stride=8, window=3, padding=33)
    with pytest.raises(ValueError, match=r"100 is no size for this network.*nearest legal sizes 96, 113"):
        net(torch.zeros(1, 1, 96, 100))
    with pytest.raises(ValueError, match=r"x is to be \(B, 1, H, W\)"):
        net(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ValueError, match=r"x is to be \(B, 1, H, W\), B > 0"):
        net(torch.zeros(0, 1, 96, 96))
    small = FCN(**NARROW, stride=8, window=1, padding=1)  # the doubled maps are cropped instead: every size comes out
    assert small.offsets == [-1, -1, 4]
    for size in range(1, 140):
        assert small(torch.zeros(1, 1, size, 64)).shape == (1, 3, size, 64)
        if size < 17:
            continue
        x = torch.zeros(1, 1, size, 64)
        if net._fits(size):
            assert net(x).shape == (1, 3, size, 64)
        else:
            with pytest.raises(ValueError, match="nearest legal sizes"):
                net(x)


@pytest.mark.parametrize("padding", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("stride", [8, 4, 2])
def test_legal_sizes_are_those_that_every_map_can_be_cropped_for(stride, window, padding, monkeypatch):
    """The arithmetic of sizes against what torch says of each, without a check before it."""
    try:
        net = FCN(1, 2, stride, widths=(2, 2, 2), convs=(1, 1, 1), head=2, window=window, padding=padding)
    except ValueError:
        return  # no whole offset, or a border without scores
    monkeypatch.setattr(net, "_check", lambda x: None)
    for size in range(1, 50):
        try:
            fits = net(torch.zeros(1, 1, size, size)).shape[2:] == (size, size)
        except (RuntimeError, ValueError):
            fits = False
        assert net._fits(size) == fits, size


def window_classifier():
    """Without padding, as only then a window does not notice that it was cut out."""
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.MaxPool2d(2)
    ).double()
    return trunk, nn.Linear(5 * 3 * 3, 7).double(), nn.Linear(7, 4).double()


def test_a_classifier_made_convolutional_is_its_sliding_window():
    """A window of 18 pixels, every 4: the scores of one pass over the image, to rounding [Long 2014, sec. 3.1]."""
    trunk, first, second = window_classifier()
    x = randn(2, 2, 34, 30)
    scores = sg.convolution_of(second, 1)(sg.convolution_of(first, 3)(trunk(x)).relu())
    assert scores.shape == (2, 4, 5, 4)
    for i, j in itertools.product(range(5), range(4)):
        window = x[..., 4 * i : 4 * i + 18, 4 * j : 4 * j + 18]
        close(scores[..., i, j], second(first(trunk(window).flatten(1)).relu()), atol=1e-13)
    with pytest.raises(ValueError, match="45 inputs are no map of 4 x 4"):
        sg.convolution_of(first, 4)
    assert sg.convolution_of(nn.Linear(18, 2, bias=False), 3).bias is None


# U-Net [Ronneberger 2015].


def test_the_paper_unet_has_the_sizes_of_figure_1():
    with torch.device("meta"):
        net = UNet2015()
    skips, joined = [], []
    for pair in net.down:
        pair.register_forward_hook(lambda m, x, y: skips.append(tuple(y.shape[1:])))
    for pair in net.up:
        pair.register_forward_hook(lambda m, x, y: joined.append((tuple(x[0].shape[1:]), tuple(y.shape[1:]))))
    out = net(torch.empty(1, 1, 572, 572, device="meta"))
    assert out.shape == (1, 2, 388, 388)
    assert skips == [(64, 568, 568), (128, 280, 280), (256, 136, 136), (512, 64, 64), (1024, 28, 28)]
    assert [before for before, _ in joined] == [(1024, 56, 56), (512, 104, 104), (256, 200, 200), (128, 392, 392)]
    assert [after for _, after in joined] == [(512, 52, 52), (256, 100, 100), (128, 196, 196), (64, 388, 388)]
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23
    assert [m.kernel_size for m in net.grow] == [(2, 2)] * 4


@pytest.mark.parametrize("training", [False, True])
def test_unet_layer_by_layer(training):
    """Figure 1 with torch's functions, at depth 2; dropout of everything, in training, leaves zeros at the bottom."""
    torch.manual_seed(0)
    net = UNet2015(channels=2, classes=3, width=2, depth=2, dropout=1.0).double().train(training)
    for p in net.parameters():
        if p.ndim == 1:
            nn.init.normal_(p)

    def pair(layers, h):
        for conv in (layers[0], layers[2]):
            h = F.conv2d(h, conv.weight, conv.bias).relu()
        return h

    x = randn(2, 2, 44, 60)
    fine = pair(net.down[0], x)
    coarse = pair(net.down[1], F.max_pool2d(fine, 2))
    h = pair(net.down[2], F.max_pool2d(coarse, 2)) * (not training)
    for skip, by, grow, up in zip((coarse, fine), (4, 16), net.grow, net.up, strict=True):
        h = F.conv_transpose2d(h, grow.weight, grow.bias, stride=2)
        h = pair(up, torch.cat([skip[..., by:-by, by:-by], h], dim=1))
    close(net(x), F.conv2d(h, net.score.weight, net.score.bias))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_valid_sizes_by_walking_through_the_network(depth):
    def walk(n):
        sizes = []
        for _ in range(depth):
            n -= 4
            if n % 2 or n <= 0:
                return None
            sizes.append(n)
            n //= 2
        n -= 4
        for _ in range(depth):
            n = 2 * n - 4
        return n if n > 0 else None

    legal = {n: walk(n) for n in range(1, 760) if walk(n)}
    for n in range(1, 690):
        if n in legal:
            assert valid_output(n, depth) == legal[n]
        else:
            below, above = max((m for m in legal if m < n), default=None), min(m for m in legal if m > n)
            named = ", ".join(str(m) for m in (below, above) if m)
            with pytest.raises(ValueError, match=f"nearest legal sizes {named}$"):
                valid_output(n, depth)


def test_valid_sizes_of_the_paper():
    legal = []
    for n in range(1, 600):
        try:
            assert valid_output(n) == n - 184
            legal.append(n)
        except ValueError:
            pass
    assert legal == [n for n in range(188, 600) if n % 16 == 12]
    with torch.device("meta"):
        net = UNet2015(width=4)
    with pytest.raises(ValueError, match="no even poolings at 570: nearest legal sizes 556, 572"):
        net(torch.empty(1, 1, 572, 570, device="meta"))
    for wrong in ((1, 3, 572, 572), (0, 1, 572, 572)):
        with pytest.raises(ValueError, match=r"x is to be \(B, 1, H, W\), B > 0"):
            net(torch.empty(*wrong, device="meta"))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_skip_is_cropped_from_the_middle(level, monkeypatch):
    """With one skip alone, or none, what one period of output sees is centred on it."""
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    net = averaging(UNet2015(width=2, depth=2, dropout=0.0))
    x = rand(1, 1, 108, 108).requires_grad_()
    net(x, cut={0, 1} - {level})[..., 32:36, 32:36].sum().backward()
    seen = x.grad[0, 0]
    place = torch.arange(108, dtype=torch.float64)
    close((seen.sum(1) * place).sum() / seen.sum(), 20 + 33.5)
    close((seen.sum(0) * place).sum() / seen.sum(), 20 + 33.5)


def test_cut_names_the_level_whose_skip_is_zeros():
    torch.manual_seed(0)
    net = UNet2015(width=2, depth=2).double().eval()
    x = randn(1, 1, 60, 60)
    uncut = net(x)
    for level in (0, 1):
        before = net(x, cut=[level])
        assert not torch.allclose(before, uncut)
        first = net.up[-1 - level][0]
        with torch.no_grad():
            first.weight[:, : first.in_channels // 2] += 1  # reads nothing but the skip
        close(net(x, cut=[level]), before)
        assert not torch.allclose(net(x), uncut)


def test_the_whole_image_is_scored_with_its_mirror_around_it():
    torch.manual_seed(0)
    net = UNet2015(width=2, depth=2).double().eval()
    x = randn(2, 1, 49, 62)
    at = [torch.arange(-20, n + 40).abs() for n in (49, 62)]
    mirrored = [torch.where(i < n, i, 2 * (n - 1) - i) for i, n in zip(at, (49, 62), strict=True)]
    framed = x[..., mirrored[0][:, None], mirrored[1][None, :]][..., :92, :104]  # the next legal sizes from 89 and 102
    for cut in ((), (0,)):
        close(whole(net, x, cut), net(framed, cut)[..., :49, :62])
    with pytest.raises(ValueError, match="too few to mirror 22 of them"):
        whole(net, randn(1, 1, 22, 62))


def test_crops_are_what_they_say_or_refused():
    x = randn(1, 2, 7, 6)
    assert torch.equal(sg.crop(x, 1, (4, 3)), x[:, :, 1:5, 1:4])
    assert torch.equal(sg.centre(x, (3, 4)), x[:, :, 2:5, 1:5])
    with pytest.raises(ValueError, match=r"no \(4, 3\) in \(7, 6\) from 4 on"):
        sg.crop(x, 4, (4, 3))


def test_tiles_of_the_paper_fit_together():
    """The overlap-tile strategy: scores of a tile are those of the whole image, if tiles lie on the poolings' grid."""
    torch.manual_seed(0)
    net = UNet2015(width=2, depth=2).double().eval()
    x = randn(1, 1, 108, 108)
    close(net(x[..., 24:, 40:]), net(x)[..., 24:, 40:], atol=1e-13)


def test_he2015_eq10_initialisation_keeps_the_mean_square():
    """Var = 2 / fan-in for each kind of layer; a 2x2 up-convolution with stride 2 adds up its channels alone."""
    torch.manual_seed(0)
    alone = sg.he(torch.nn.Conv2d(300, 400, 1, bias=False), 300)
    close(alone.weight.double().var().item(), 2 / 300, rtol=6 * math.sqrt(2 / alone.weight.numel()))
    net = UNet2015(width=32, depth=2)
    for conv, fan in ((net.down[0][2], 9 * 32), (net.up[0][0], 9 * 128), (net.grow[0], 128), (net.score, 32)):
        close(conv.weight.double().var().item(), 2 / fan, rtol=6 * math.sqrt(2 / conv.weight.numel()))
        assert not conv.bias.any()
    h = torch.randn(4, 128, 20, 20).relu()  # as after a ReLU: mean square 1/2, so N(0, 1) again after the next
    close(net.grow[0](h).square().mean().item(), 1.0, rtol=0.1)
    fcn = FCN(**(NARROW | {"widths": (32, 64), "convs": (1, 1), "head": 48}), stride=4, window=3, padding=33)
    for conv, fan in ((fcn.stages[1][0], 9 * 32), (fcn.head[0], 9 * 64), (fcn.head[3], 48)):
        close(conv.weight.double().var().item(), 2 / fan, rtol=6 * math.sqrt(2 / conv.weight.numel()))


# Weights [Ronneberger 2015, eq. 2].


@pytest.mark.parametrize(("cells", "settings"), [((2, 5), {}), ((1, 2, 5, 9), {"w0": 7.0, "sigma": 3.0})])
def test_ronneberger2015_eq2_border_weights_by_brute_force(cells, settings):
    """By default with the paper's w0 = 10 and sigma = 5 pixels."""
    instances = torch.zeros(17, 13, dtype=torch.long)
    instances[2:6, 2:5], instances[7:12, 3:9], instances[3, 10], instances[14:, 11:] = 1, 2, 5, 9
    instances *= torch.isin(instances, torch.tensor(cells))
    balance = rand(17, 13)
    weights = sg.border_weights(instances, balance, **settings)
    w0, sigma = settings.get("w0", 10), settings.get("sigma", 5)
    for y, x in itertools.product(range(17), range(13)):
        d = sorted(min(math.hypot(y - i, x - j) for i, j in (instances == k).nonzero().tolist()) for k in cells)
        true = balance[y, x].item() + w0 * math.exp(-((d[0] + d[1]) ** 2) / (2 * sigma**2))
        assert weights[y, x].item() == pytest.approx(true, rel=1e-12)


def test_border_weights_without_a_second_cell_are_the_balance_alone():
    instances = torch.zeros(5, 6, dtype=torch.long)
    close(sg.border_weights(instances, 0.5), torch.full((5, 6), 0.5))
    instances[1:3] = 4
    close(sg.border_weights(instances), torch.ones(5, 6))


def test_ronneberger2015_eq1_pixel_loss_is_the_weighted_log_likelihood():
    scores, weights = randn(2, 3, 4, 5), rand(2, 4, 5, seed=1)
    target = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(0))
    p = scores.exp() / scores.exp().sum(1, keepdim=True)
    true = 0.0
    for b, i, j in itertools.product(range(2), range(4), range(5)):
        true -= weights[b, i, j] * p[b, target[b, i, j], i, j].log()
    close(sg.pixel_loss(scores, target, weights), true / 40)


@pytest.mark.parametrize("name", ["channels", "classes", "head", "window", "widths", "convs"])
def test_the_numbers_of_an_fcn_are_positive(name):
    legal = {"channels": 1, "classes": 1, "stride": 2, "widths": [1], "convs": [1], "head": 1, "window": 1}
    FCN(**legal, dropout=0), FCN(**legal, dropout=1)
    with pytest.raises(ValueError, match=f"{name} = 0"):
        FCN(**legal | {name: [0] if name in ("widths", "convs") else 0})
    for dropout in (-0.1, 1.1):
        with pytest.raises(ValueError, match="dropout = "):
            FCN(**legal, dropout=dropout)


@pytest.mark.parametrize(("name", "least"), [("channels", 1), ("classes", 1), ("width", 1), ("depth", 0)])
def test_the_numbers_of_a_unet_are_positive(name, least):
    legal = {"channels": 1, "classes": 1, "width": 1, "depth": 0}
    UNet2015(**legal, dropout=0), UNet2015(**legal, dropout=1)
    with pytest.raises(ValueError, match=f"{name} = {least - 1}"):
        UNet2015(**legal | {name: least - 1})
    for dropout in (-0.1, 1.1):
        with pytest.raises(ValueError, match="dropout = "):
            UNet2015(**legal, dropout=dropout)


def test_images_of_another_type_are_refused():
    for net in (FCN(**NARROW, stride=8, window=3, padding=33), UNet2015(1, 1, 1, 0)):
        for ask in (net, net.classify) if isinstance(net, FCN) else (net,):
            with pytest.raises(ValueError, match=r"x is torch\.float64"):
                ask(torch.zeros(1, 1, 96, 96).double())
            with pytest.raises(ValueError, match=r"x is to be \(B, 1, H, W\)"):
                ask(torch.zeros(1, 96, 96))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sg.convolution_of(nn.Linear(4, 1), 0), "window = 0"),
        (lambda: valid_output(188, -1), "depth = -1"),
        (lambda: sg.border_weights(torch.eye(3).long(), w0=-1.0), "w0 = -1"),
        (lambda: sg.border_weights(torch.eye(3).long(), sigma=0.0), "sigma = 0"),
        (lambda: sg.border_weights(torch.eye(3).long(), balance=torch.ones(3)), "balance is"),
        (lambda: sg.border_weights(torch.eye(3).long(), balance=math.nan), "balance holds NaN"),
        (lambda: sg.border_weights(torch.eye(3).long(), balance=torch.ones(3, 3) / 0), "balance holds NaN"),
        (lambda: sg.border_weights(torch.ones(2, 3, 3).long()), r"of one image; got \(2, 3, 3\)"),
        (lambda: sg.border_weights(torch.eye(3)), "torch.float32"),
        (lambda: sg.pixel_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3), torch.ones(1, 3, 3)), "whole numbers"),
        (lambda: sg.pixel_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).long(), torch.ones(3, 3)), "weights is"),
        (lambda: sg.pixel_loss(torch.zeros(1, 2, 3, 3), torch.zeros(3, 3).long(), torch.ones(1, 3, 3)), "target is"),
        (lambda: sg.pixel_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 2]]]), torch.ones(1, 1, 2)), "largest = 2"),
        (lambda: sg.pixel_loss(torch.zeros(1, 2, 1, 1), torch.tensor([[[-1]]]), torch.ones(1, 1, 1)), "smallest = -1"),
        (lambda: sg.centre(torch.zeros(2, 3, 3), (1, 1)), "x is to be"),
        (lambda: sg.centre(torch.zeros(1, 1, 4, 4), (6, 4)), r"no \(6, 4\) in the middle of \(4, 4\)"),
        (lambda: sg.centre(torch.zeros(1, 1, 4, 4), (4, 5)), r"no \(4, 5\) in the middle of \(4, 4\)"),
        (lambda: sg.he(nn.Conv2d(1, 1, 1), 0), "inputs = 0"),
    ],
)
def test_sizes_classes_and_weights_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_smallest_of_them_are_legal():
    assert sg.convolution_of(nn.Linear(1, 1), 1).weight.shape == (1, 1, 1, 1)
    assert valid_output(9, 0) == 5
    assert sg.border_weights(torch.eye(2).long(), torch.tensor(2.0), w0=0.0).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    loss = sg.pixel_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]), torch.ones(1, 1, 2))
    assert float(loss) == pytest.approx(math.log(2))
    for dtype in (torch.uint8, torch.bool):
        assert sg.pixel_loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]).to(dtype), torch.ones(1, 1, 2)) == loss
    assert sg.centre(torch.ones(1, 1, 2, 3), (2, 3)).shape == (1, 1, 2, 3)
    sg.he(nn.Conv2d(1, 1, 1), 1)


def test_images_smaller_than_a_window_are_refused_and_one_window_is_enough():
    net = FCN(1, 2, 2, (2,), (1,), 3, window=3, padding=3).double().eval()
    assert net.classify(torch.zeros(1, 1, 1, 9).double()).shape == (1, 2, 1, 5)  # maps of 3 x 7
    small = FCN(1, 2, 2, (2,), (1,), 3, window=4, padding=3).double().eval()
    for size in ((1, 9), (9, 1), (2, 2)):
        with pytest.raises(ValueError, match="less than a window"):
            small.classify(torch.zeros(1, 1, *size).double())
    assert small.classify(torch.zeros(1, 1, 3, 3).double()).shape == (1, 2, 1, 1)
