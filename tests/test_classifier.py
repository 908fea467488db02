import inspect

import pytest
import torch
from helpers import close, seeded

from ddpm_path.classifier import AttentionPool, NoisyClassifier
from ddpm_path.guidance import class_score
from ddpm_path.unet import UNet

TIMES = torch.tensor([1.0, 30.0, 400.0, 1000.0])


def images(n=4, channels=1, size=16, seed=0):
    return torch.randn(n, channels, size, size, generator=seeded(seed), dtype=torch.float64)


def fresh(**changes):
    """A float64 classifier with every parameter moved, so that nothing hides behind a branch that starts at 0."""
    settings = {"channels": 1, "classes": 3, "size": 16, "widths": (16, 32), "attention": (1,), "head_width": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NoisyClassifier(**(settings | changes)).eval()
        for p in net.requires_grad_(False).parameters():
            p += 0.1 * torch.randn(p.shape)
    return net.double()


def test_dhariwal2021_attention_pooling_by_loops():
    """Token 0, the mean, asks; it and every position answer; head by head, with the embeddings added first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pool = AttentionPool(12, 6, head_width=4, out=5).double()
    x = torch.randn(2, 12, 2, 3, generator=seeded(1)).double()
    for i in range(2):
        columns = [x[i, :, r, c] for r in range(2) for c in range(3)]
        tokens = [sum(columns) / 6, *columns]
        tokens = [token + pool.positions[j] for j, token in enumerate(tokens)]
        q, keys, values = (
            [part @ token + bias for token in tokens]
            for part, bias in zip(pool.qkv.weight.chunk(3), pool.qkv.bias.chunk(3), strict=True)
        )
        heads = []
        for h in range(3):
            own = slice(4 * h, 4 * h + 4)
            weights = torch.stack([q[0][own] @ key[own] / 2 for key in keys]).softmax(0)
            heads.append(sum(w * value[own] for w, value in zip(weights, values, strict=True)))
        close(pool(x)[i], pool.out.weight @ torch.cat(heads) + pool.out.bias, rtol=1e-10)


def test_dhariwal2021_embeddings_of_position_start_with_variance_1_over_channels():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        positions = AttentionPool(64, 400, 32, 10).positions
    assert positions.shape == (401, 64)
    assert abs(float(positions.detach().square().mean()) - 1 / 64) < 5 / 64 * (2 / positions.numel()) ** 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"widths": (32,), "attention": ()},
        {"patch": 2},
        {"blocks": 2, "attention": (0, 1)},
        {"channels": 3, "size": 12, "groups": 4},
    ],
)
def test_answers_normalised_log_probabilities(changes):
    settings = {"channels": 1, "size": 16} | changes
    x = images(4, settings["channels"], settings["size"])
    log_probs = fresh(**changes)(x, TIMES)
    assert log_probs.shape == (4, 3) and float(log_probs.std()) > 0.01
    close(log_probs.exp().sum(1), torch.ones(4))


@pytest.mark.parametrize("changes", [{}, {"widths": (16, 32, 32), "blocks": 2, "attention": (0, 2), "patch": 2}])
def test_dhariwal2021_the_way_down_and_the_middle_are_adms(changes):
    """A U-Net that resizes by residual blocks takes the weights, all of them; then normalisation, SiLU, pooling."""
    net, settings = fresh(**changes), {"widths": (16, 32), "attention": (1,), "head_width": 16} | changes
    whole, rest = UNet(1, **settings, residual_resampling=True).double().eval(), iter(net.down)
    for i, stage in enumerate(whole.down):
        for block in (*([whole.shrink[i - 1]] if i else []), *stage):
            block.load_state_dict(next(rest).state_dict())
    assert next(rest, None) is None
    for name in ("time", "stem", "middle"):
        getattr(whole, name).load_state_dict(getattr(net, name).state_dict())
    maps = []
    whole.middle[-1].register_forward_hook(lambda module, args, out: maps.append(out))
    x = images()
    whole(x, TIMES)
    h = torch.nn.functional.group_norm(maps[0], 8, net.norm.weight, net.norm.bias)
    close(net(x, TIMES), net.pool(h * h.sigmoid()).log_softmax(1), rtol=1e-9)


def test_what_a_classifier_is_not_told_it_has_from_the_u_net():
    ours, theirs = (inspect.signature(kind).parameters for kind in (NoisyClassifier, UNet))
    told = {name for name, parameter in ours.items() if parameter.default is not inspect.Parameter.empty}
    assert {name: ours[name].default for name in told} == {name: theirs[name].default for name in told}


def test_a_trained_networks_times_matter_and_each_to_its_own_image_alone():
    net, x = fresh(), images()
    whole, later = net(x, TIMES), TIMES.clone()
    later[2] = 700.0
    changed = (net(x, later) - whole).abs().amax(1)
    assert float(changed[2]) > 1e-3 and float(changed[[0, 1, 3]].max()) < 1e-12
    order = torch.tensor([2, 0, 3, 1])
    close(net(x[order], TIMES[order]), whole[order], rtol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_dhariwal2021_shuffling_the_batch_shuffles_the_gradients(training):
    """In training mode, too: there is no batch normalisation."""
    net, x, labels, order = fresh().train(training), images(), torch.tensor([0, 1, 2, 1]), torch.tensor([2, 0, 3, 1])
    whole = class_score(net, labels)(x, TIMES)
    assert float(whole.flatten(1).norm(dim=1).min()) > 1e-3
    close(class_score(net, labels[order])(x[order], TIMES[order]), whole[order], rtol=1e-8, atol=1e-12)
    close(class_score(net, labels[:1])(x[:1], TIMES[:1]), whole[:1], rtol=1e-8, atol=1e-12)


def test_every_pixel_and_every_parameter_has_a_say():
    net, x = fresh(patch=2).requires_grad_(True), images().requires_grad_(True)
    net(x, TIMES)[:, 0].sum().backward()
    assert bool((x.grad.abs().sum(0) > 0).all())
    silent = [name for name, p in net.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert not silent


def test_images_and_times_that_do_not_fit_are_refused():
    net = fresh()
    for x, t in ((images(size=12), TIMES), (images(channels=3), TIMES), (images(), TIMES[:1]), (images()[0], TIMES)):
        with pytest.raises(ValueError, match=r"x is to be \(B, 1, 16, 16\)|times are \(B,\)"):
            net(x, t)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 15}, "size 15 must be divisible by 2"),
        ({"size": 14, "patch": 4}, "size 14 must be divisible by 8"),
        ({"widths": (20, 32)}, "by groups 8"),
        ({"widths": (16, 32, 40)}, "by head_width 16"),
        ({"widths": (24, 32), "attention": (0,)}, "by head_width 16"),
    ],
)
def test_illegal_sizes_and_widths_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        fresh(**changes)


@pytest.mark.parametrize("name", ["channels", "classes", "size", "blocks", "head_width", "patch", "groups", "widths"])
def test_a_classifiers_numbers_are_positive(name):
    legal = {"channels": 1, "classes": 1, "size": 1, "widths": [8], "head_width": 1, "groups": 1, "patch": 1}
    NoisyClassifier(**legal)
    with pytest.raises(ValueError, match=f"{name} = 0: give a finite number from 1"):
        NoisyClassifier(**legal | {name: [] if name == "widths" else 0})


def test_levels_dropout_and_embedding_are_in_range():
    legal = {"channels": 1, "classes": 1, "size": 2, "widths": [4, 4], "head_width": 1, "groups": 1}
    NoisyClassifier(**legal, attention=(0, 1), dropout=0, embedding=4), NoisyClassifier(**legal, dropout=1)
    for changes, words in (
        ({"attention": (0, 2)}, "attention = 2"),
        ({"attention": (-1,)}, "attention = -1"),
        ({"widths": [0, 4]}, "widths = 0"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        ({"dropout": 1.1}, "dropout = 1.1"),
        ({"embedding": 3}, "embedding = 3"),
    ):
        with pytest.raises(ValueError, match=words):
            NoisyClassifier(**legal | changes)
    with pytest.raises(ValueError, match=r"x is torch\.float64"):
        NoisyClassifier(**legal)(torch.zeros(1, 1, 2, 2).double(), torch.ones(1))
