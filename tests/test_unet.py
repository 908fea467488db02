import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from helpers import seeded

from ddpm_path.lab import recipes
from ddpm_path.unet import (
    Attention,
    Double,
    Halve,
    ResBlock,
    UNet,
    adm,
    ddpm_cifar10,
    double,
    halve,
    improved_cifar10,
    improved_imagenet64,
    improved_time_embedding,
    time_embedding,
    zero,
)

TIGHT = {"atol": 1e-5, "rtol": 1e-5}  # float32, a few dozen layers, values near 1


def images(n=3, channels=1, size=16, seed=0):
    return torch.randn(n, channels, size, size, generator=seeded(seed))


def fresh(**changes):
    torch.manual_seed(0)
    settings = {"channels": 1, "widths": (16, 32), "attention": (1,), "head_width": 16, "classes": 3}
    return UNet(**(settings | changes)).eval()


def shaken(module, seed=0):
    """The module with every parameter moved, so that nothing is hidden behind a branch that starts at 0."""
    generator = seeded(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return module


@pytest.fixture(autouse=True)
def _own_randomness():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# --- parts


@pytest.mark.parametrize("dim", [8, 48, 128])
def test_ho2020_time_embedding_equals_diffusers(dim):
    t = torch.tensor([0.0, 1.0, 2.5, 500.0, 999.0, 1000.0])
    true = get_timestep_embedding(t, dim, flip_sin_to_cos=False, downscale_freq_shift=1)
    torch.testing.assert_close(time_embedding(t, dim), true, atol=3e-5, rtol=0)  # float32 angles up to 1,000
    torch.testing.assert_close(time_embedding(t.long(), dim), time_embedding(t.long().float(), dim))
    torch.testing.assert_close(time_embedding(t.double(), dim), time_embedding(t, dim))


@pytest.mark.parametrize("dim", [8, 48, 192])
def test_nichol2021_time_embedding_equals_diffusers_in_the_other_order(dim):
    t = torch.tensor([0.0, 0.25, 1.0, 500.0, 999.75])
    true = get_timestep_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(improved_time_embedding(t, dim), true, atol=6e-5, rtol=0)  # float32 angles up to 1,000
    exact = t.double()[:, None] * 10000.0 ** -(torch.arange(dim // 2).double() / (dim // 2))
    exact = torch.cat([exact.cos(), exact.sin()], 1)
    torch.testing.assert_close(improved_time_embedding(t, dim).double(), exact, atol=6e-5, rtol=0)


def test_vaswani2017_time_embedding_starts_at_frequency_1_and_ends_at_one_over_10000():
    angles = torch.tensor([0.3, 3e-5])
    emb = time_embedding(torch.tensor([0.3]), 10)[0]
    torch.testing.assert_close(emb[[0, 4, 5, 9]], torch.cat([angles.sin(), angles.cos()]))


def test_zero_clears_weights_and_bias():
    conv = zero(torch.nn.Conv2d(3, 4, 3))
    assert float(conv(images(channels=3)).detach().abs().max()) == 0


@pytest.mark.parametrize("out_channels", [16, 32])
def test_dhariwal2021_a_fresh_residual_block_is_its_skip(out_channels):
    block = ResBlock(16, out_channels, 8, 8, 0.0)
    x = images(channels=16)
    torch.testing.assert_close(block(x, torch.randn(3, 8)), block.skip(x), atol=0, rtol=0)


def test_dhariwal2021_sec3_adaptive_group_norm_spelled_out():
    """AdaGN(h) = (1 + y_s) GroupNorm(h) + y_b after the first convolution, then SiLU and the second."""
    block, x, cond = shaken(ResBlock(16, 32, 8, 4, 0.0)), images(channels=16), torch.randn(3, 8)

    def group_norm(h, norm):
        parts = h.view(len(h), 4, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return parts.view_as(h) * norm.weight[:, None, None] + norm.bias[:, None, None]

    def silu(h):
        return h / (1 + (-h).exp())

    h = block.conv1(silu(group_norm(x, block.norm1)))
    y_s, y_b = block.condition(cond)[:, :32], block.condition(cond)[:, 32:]
    h = group_norm(h, block.norm2) * (1 + y_s[:, :, None, None]) + y_b[:, :, None, None]
    torch.testing.assert_close(block(x, cond), block.skip(x) + block.conv2(silu(h)), **TIGHT)


def test_ho2020_added_condition_spelled_out():
    """h = conv1(silu(norm1 x)) + W cond, then silu(norm2 h) and the second convolution."""
    block, x, cond = shaken(ResBlock(16, 32, 8, 4, 0.0, scale_shift=False)), images(channels=16), torch.randn(3, 8)
    h = (
        block.conv1(torch.nn.functional.silu(block.norm1(x)))
        + (cond @ block.condition.weight.T + block.condition.bias)[:, :, None, None]
    )
    right = block.skip(x) + block.conv2(torch.nn.functional.silu(block.norm2(h)))
    torch.testing.assert_close(block(x, cond), right, **TIGHT)


@pytest.mark.parametrize("out_channels", [16, 32])
def test_brock2019_a_residual_block_resizes_between_activation_and_convolution_and_on_the_skip(out_channels):
    x, cond = images(channels=16, size=4), torch.randn(3, 8)
    means = x.view(3, 16, 2, 2, 2, 2).mean((3, 5))
    copies = x[:, :, :, None, :, None].expand(3, 16, 4, 2, 4, 2).reshape(3, 16, 8, 8)
    for resize, right, size in ((halve, means, 2), (double, copies, 8)):
        fresh_block = ResBlock(16, out_channels, 8, 4, 0.0, resize=resize)
        torch.testing.assert_close(fresh_block(x, cond), fresh_block.skip(right), **TIGHT)
        block = shaken(fresh_block)
        h = torch.nn.functional.silu(block.norm1(x))
        h = (
            h.view(3, 16, 2, 2, 2, 2).mean((3, 5))
            if resize is halve
            else h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        )
        scale, shift = block.condition(cond)[:, :, None, None].chunk(2, 1)
        h = block.norm2(block.conv1(h)) * (1 + scale) + shift
        h = block.conv2(torch.nn.functional.silu(h))
        torch.testing.assert_close(block(x, cond), block.skip(right) + h, **TIGHT)
        assert h.shape[2:] == (size, size)


def test_song2021_rescaled_sums():
    x, cond = images(channels=16), torch.randn(3, 8)
    block, attention = ResBlock(16, 16, 8, 4, 0.0, rescale=0.25), Attention(16, 8, 4, rescale=0.25)
    for module, whole in ((block, lambda: block(x, cond)), (attention, lambda: attention(x))):
        shaken(module)
        small = whole()
        module.rescale = 1.0
        torch.testing.assert_close(small, 0.25 * whole(), **TIGHT)


@pytest.mark.parametrize(("asymmetric", "first"), [(False, -1), (True, 0)])
def test_ho2020_a_halving_convolution_spelled_out_where_its_padding_lies(asymmetric, first):
    """TensorFlow's SAME puts all of the padding below and on the right: output i reads rows 2 i, 2 i + 1, 2 i + 2."""
    conv, x = shaken(Halve(3, asymmetric)), images(n=1, channels=3, size=6)
    out = torch.zeros(1, 3, 3, 3)
    for i in range(3):
        for j in range(3):
            for a in range(3):
                for b in range(3):
                    row, column = 2 * i + first + a, 2 * j + first + b
                    if 0 <= row < 6 and 0 <= column < 6:
                        out[0, :, i, j] += conv.weight[:, :, a, b] @ x[0, :, row, column]
    torch.testing.assert_close(conv(x), out + conv.bias[:, None, None], **TIGHT)


def test_odena2016_a_doubling_convolution_repeats_pixels_first():
    conv, x = shaken(Double(3)), images(channels=3, size=4)
    right = torch.nn.functional.conv2d(
        x.repeat_interleave(2, 2).repeat_interleave(2, 3), conv.weight, conv.bias, padding=1
    )
    torch.testing.assert_close(conv(x), right, **TIGHT)


def test_dropout_acts_in_training_only():
    block, x, cond = shaken(ResBlock(16, 16, 8, 8, 0.5)), images(channels=16), torch.randn(3, 8)
    assert not torch.equal(block.train()(x, cond), block(x, cond))
    assert torch.equal(block.eval()(x, cond), block(x, cond))


def test_fresh_attention_is_the_identity():
    x = images(channels=32)
    assert torch.equal(Attention(32, 16, 8)(x), x)
    for width in (0, 12, 64):
        with pytest.raises(ValueError, match=f"heads of width {width}|head_width = {width}"):
            Attention(32, width, 8)


def softmax_edit(q, k, v):
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("head_width", [8, 32])
def test_attention_equals_a_loop_over_heads_and_positions(head_width):
    attention, x = shaken(Attention(32, head_width, 8), seed=3), images(n=2, channels=32, size=4)
    x = x[:, :, :, :3]  # not square: rows and columns cannot be exchanged unseen
    qkv = attention.qkv(attention.norm(x))  # (B, 96, 4, 3): all q, then all k, then all v
    mixed = torch.zeros(2, 32, 4, 3)
    for head in range(32 // head_width):
        q, k, v = (qkv[:, part + head * head_width :][:, :head_width].flatten(2) for part in (0, 32, 64))  # (B, d, L)
        weight = (torch.einsum("bdi,bdj->bij", q, k) / head_width**0.5).softmax(-1)
        mixed[:, head * head_width :][:, :head_width] = torch.einsum("bij,bdj->bdi", weight, v).view(2, -1, 4, 3)
    torch.testing.assert_close(attention(x), x + attention.out(mixed), **TIGHT)


def test_attention_edit_that_recomputes_softmax_changes_nothing_and_sees_every_head():
    attention, x, seen = shaken(Attention(32, 8, 8), seed=3), images(channels=32, size=4), []
    before = attention(x)

    def edit(q, k, v):
        seen.append(q.shape)
        return softmax_edit(q, k, v)

    attention.edit = edit
    torch.testing.assert_close(attention(x), before, **TIGHT)
    assert seen == [(3, 4, 16, 8)]
    attention.edit = lambda q, k, v: torch.zeros_like(v)
    torch.testing.assert_close(attention(x), x + attention.out.bias[:, None, None])


def test_attention_edits_inside_the_network():
    net, x, t = shaken(fresh()), images(), torch.tensor([1.0, 500.0, 1000.0])
    before, calls = net(x, t), []

    def edit(q, k, v):
        calls.append(1)
        return softmax_edit(q, k, v)

    for module in net.modules():
        if isinstance(module, Attention):
            module.edit = edit
    torch.testing.assert_close(net(x, t), before, **TIGHT)
    assert len(calls) == 4  # one level of two: one block down, one in the middle, two up


# --- the whole


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch": 2},
        {"patch": 4, "widths": (16,), "attention": ()},
        {"widths": (16, 32, 48), "blocks": 2, "attention": (0, 2)},
        {"channels": 3, "out_channels": 6, "classes": 0},
        {"patch": 2, "channels": 3, "out_channels": 6},
        {"scale_shift": False, "asymmetric": True, "heads": 1},
        {"residual_resampling": True, "heads": 4, "rescale": 0.5, "embed": improved_time_embedding, "embedding": 12},
    ],
)
def test_ho2020_appB_a_fresh_network_answers_0_in_the_right_shape(changes):
    net = fresh(**changes)
    channels = changes.get("channels", 1)
    for height, width in [(16, 16), (8, 24)]:
        x = torch.randn(2, channels, height, width)
        out = net(x, torch.tensor([1.0, 1000.0]))
        assert out.shape == (2, changes.get("out_channels", channels), height, width)
        assert float(out.detach().abs().max()) == 0
        assert float(shaken(fresh(**changes))(x, torch.tensor([1.0, 1000.0])).detach().abs().max()) > 1e-3


def test_no_label_is_the_null_label():
    net, x, t = shaken(fresh()), images(), torch.tensor([1.0, 500.0, 1000.0])
    assert torch.equal(net(x, t), net(x, t, torch.tensor([3, 3, 3])))


def parts(net, kind):
    return [module for module in net.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("residual_resampling", [False, True])
def test_what_a_network_is_told_holds_in_all_of_its_blocks(residual_resampling):
    net = fresh(
        groups=4, dropout=0.3, scale_shift=False, eps=1e-3, rescale=0.5, residual_resampling=residual_resampling
    )
    assert {(norm.num_groups, norm.eps) for norm in parts(net, torch.nn.GroupNorm)} == {(4, 1e-3)}
    assert {(block.dropout.p, block.scale_shift) for block in parts(net, ResBlock)} == {(0.3, False)}
    assert {part.rescale for part in parts(net, (ResBlock, Attention))} == {0.5}
    resized = [block.resize for block in parts(net, ResBlock) if block.resize is not None]
    assert resized == ([halve, double] if residual_resampling else [])


def test_what_a_network_is_not_told_is_the_published_code_s_or_nothing():
    net = shaken(fresh()).train()
    x, t = images(), torch.tensor([1.0, 500.0, 1000.0])
    assert torch.equal(net(x, t), net(x, t))  # no dropout
    assert {norm.eps for norm in parts(net, torch.nn.GroupNorm)} == {1e-5}
    assert {part.rescale for part in parts(net, (ResBlock, Attention))} == {1.0}
    assert not parts(net, Halve)[0].asymmetric and not net.checkpointing
    alone = UNet(1, (32, 64))  # one block a resolution, two on the way up; attention in the middle, heads 32 wide
    assert [len(stage) for stage in (*alone.down, *alone.up)] == [1, 1, 2, 2]
    assert [attention.heads for attention in parts(alone, Attention)] == [2]
    assert alone(images(size=2), 1.0).shape == (3, 1, 2, 2)  # no patches: 2 = 2^1 pixels are enough


@pytest.mark.parametrize(
    ("preset", "dropout", "eps"),
    [
        (ddpm_cifar10, 0.1, 1e-6),
        (improved_cifar10, 0.3, 1e-5),
        (improved_imagenet64, 0.0, 1e-5),
        (lambda: adm(64), 0.1, 1e-5),
        (lambda: adm(128), 0.0, 1e-5),
        (lambda: adm(256), 0.0, 1e-5),
        (lambda: adm(512), 0.0, 1e-5),
    ],
)
def test_published_dropout_and_normalisation(preset, dropout, eps):
    """The papers' settings and their codes' GroupNorm of 32 groups, which no file of weights tells."""
    with torch.device("meta"):
        net = preset()
    assert {block.dropout.p for block in parts(net, ResBlock)} == {dropout}
    assert {(norm.num_groups, norm.eps) for norm in parts(net, torch.nn.GroupNorm)} == {(32, eps)}


def test_label_and_time_of_each_sample_matter_to_it_alone():
    net, x, t, label = shaken(fresh()), images(), torch.tensor([1.0, 500.0, 1000.0]), torch.tensor([0, 1, 2])
    out = net(x, t, label)
    for other in (
        net(x, t, torch.tensor([0, 2, 2])),
        net(x, torch.tensor([1.0, 501.0, 1000.0]), label),
        net(torch.cat([x[:1], x[1:2] + 1, x[2:]]), t, label),
    ):
        change = (other - out).detach().abs().flatten(1).amax(1)
        assert float(change[1]) > 1e-3 and float(change[[0, 2]].max()) < 1e-5


def test_shuffling_the_batch_shuffles_the_answers():
    net, x, t, label = shaken(fresh(patch=2)), images(n=5), torch.rand(5) * 1000, torch.tensor([0, 1, 2, 3, 0])
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(net(x[order], t[order], label[order]), net(x, t, label)[order], **TIGHT)


VARIANTS = [
    {},
    {"patch": 2, "blocks": 2, "attention": (0, 1)},
    {"classes": 0},
    {"residual_resampling": True, "heads": 2},
    {"scale_shift": False, "asymmetric": True},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_parameter_is_used(changes):
    net = shaken(fresh(**changes))
    label = torch.tensor([0, 1, 2, 3]) if changes.get("classes", 3) else None
    net(images(n=4), torch.tensor([1.0, 20.0, 500.0, 1000.0]), label).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and float(p.grad.abs().max()) > 1e-6, name
        if name == "label.weight":
            assert bool((p.grad.abs().amax(1) > 1e-6).all())


def test_ronneberger2015_detail_crosses_by_the_skips():
    """With the lower level cut off, a pixel still reaches its own place in the output: the finest skips carry it."""
    net, x, t = shaken(fresh()), images(n=1).requires_grad_(), torch.tensor([500.0])
    net.middle[0].block.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    net.down[1][0].block.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    (reach,) = torch.autograd.grad(net(x, t)[0, 0, 8, 8], x)
    assert float(reach[0, 0, 8, 8].abs()) > 1e-3


def test_attention_and_depth_see_the_whole_image():
    net, x, t = shaken(fresh(widths=(16, 32, 32), attention=(2,))), images(n=1).requires_grad_(), torch.tensor([500.0])
    (reach,) = torch.autograd.grad(net(x, t)[0, 0, 0, 0], x)
    assert float(reach[0, 0, 15, 15].abs()) > 0


@pytest.mark.parametrize(("patch", "widths"), [(1, (16,)), (2, (16, 32)), (4, (16, 32)), (2, (16, 32, 32))])
def test_the_space_to_depth_stem_works_on_a_grid_smaller_by_patch(patch, widths):
    net, sizes = fresh(patch=patch, widths=widths, attention=()), []
    for stage in net.down:
        stage[0].register_forward_hook(lambda module, args, out: sizes.append(out.shape[2:]))
    net(images(size=32), torch.ones(3))
    assert sizes == [(32 // patch // 2**i,) * 2 for i in range(len(widths))]
    assert net.multiple == patch * 2 ** (len(widths) - 1)


def test_a_pixel_comes_out_where_it_went_in():
    """The head undoes the stem's shuffle: each sub-pixel of a patch keeps its place and its channel."""
    net = fresh(channels=3, patch=2, widths=(16,), attention=(), head_width=16, groups=8, classes=0)
    x = images(n=1, channels=3, size=8)
    given = {}
    net.stem.register_forward_hook(lambda module, args, out: given.update(stem=args[0]))
    net.head.register_forward_hook(lambda module, args, out: given["stem"])
    assert torch.equal(net(x, torch.ones(1)), x)


@pytest.mark.parametrize("changes", [*VARIANTS, {"dropout": 0.5}])
def test_checkpointing_changes_memory_not_gradients(changes):
    x, t = images(n=4), torch.tensor([1.0, 20.0, 500.0, 1000.0])
    gradients, kept = {}, {}
    for checkpointing in (False, True):
        net = shaken(fresh(checkpointing=checkpointing, **changes)).train()
        torch.manual_seed(3)  # for dropout
        kept[checkpointing] = 0

        def pack(tensor, checkpointing=checkpointing):
            kept[checkpointing] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = net(x, t).square().sum()
        loss.backward()
        gradients[checkpointing] = [p.grad for p in net.parameters()]
    torch.testing.assert_close(gradients[True], gradients[False])
    assert kept[True] < 0.5 * kept[False]


@pytest.mark.parametrize("changes", VARIANTS)
def test_memory_format_changes_nothing_but_speed(changes):
    net, x, t = shaken(fresh(**changes)), images(), torch.tensor([1.0, 500.0, 1000.0])
    before = net(x, t)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(x, t), before, atol=1e-4, rtol=1e-4)


def test_attention_copies_nothing_on_its_way_in_where_channels_are_last():
    attention = Attention(32, 16, 8).to(memory_format=torch.channels_last)
    x, seen = images(channels=32, size=4).to(memory_format=torch.channels_last), []
    attention.qkv.register_forward_hook(lambda module, args, out: seen.append(out.data_ptr()))
    attention.edit = lambda q, k, v: seen.append(q.data_ptr()) or v
    attention(x)
    assert seen[0] == seen[1]


def test_heads_of_a_number_or_of_a_width():
    for changes, heads in (({"heads": 4}, [4, 4, 4, 4]), ({"head_width": 8}, [4, 4, 4, 4]), ({"heads": 1}, [1] * 4)):
        assert [m.heads for m in fresh(**changes).modules() if isinstance(m, Attention)] == heads
    two = fresh(attention=(0, 1), head_width=8)
    assert sorted(m.heads for m in two.modules() if isinstance(m, Attention)) == [2, 2, 2, 4, 4, 4, 4]


def test_dhariwal2021_a_network_without_a_null_label_wants_labels():
    net, x, t = fresh(null_label=False), images(), torch.ones(3)
    assert net.label.weight.shape[0] == 3
    net(x, t, 2)
    with pytest.raises(ValueError, match="no null label: hand over labels from 0 to 2"):
        net(x, t)
    with pytest.raises(ValueError, match=r"labels are whole numbers from 0 to 2$"):
        net(x, t, 3)


# --- refusals


@pytest.mark.parametrize(("size", "words"), [(28, "nearest legal sizes 24, 32"), (4, "nearest legal sizes 8")])
def test_illegal_sizes_are_refused_with_the_nearest_legal_ones(size, words):
    net = fresh(patch=2, widths=(16, 32, 32), attention=())
    with pytest.raises(ValueError, match=f"{size} is not divisible by 8: {words}$"):
        net(images(size=size), torch.ones(3))
    with pytest.raises(ValueError, match="not divisible"):
        net(torch.zeros(1, 1, 16, 12), torch.ones(1))


@pytest.mark.parametrize("x", [torch.zeros(2, 3, 16, 16), torch.zeros(1, 16, 16)])
def test_images_of_another_kind_are_refused(x):
    with pytest.raises(ValueError, match=r"x is to be \(B, 1, H, W\)"):
        fresh()(x, torch.ones(2))


def test_illegal_widths_are_refused():
    bottom = {"widths": (16, 24), "attention": ()}  # where there always is attention
    for changes in (
        {"widths": (16, 36)},
        {"widths": (24, 32), "attention": (0,)},
        bottom,
        {"heads": 3},
        {"groups": 12},
    ):
        with pytest.raises(ValueError, match="must be divisible"):
            fresh(**changes)
    fresh(widths=(24, 32), attention=())  # attention nowhere else: heads of 16 need not divide 24


def test_impossible_networks_are_refused():
    for changes, words in (
        ({"widths": ()}, "one width or more"),
        ({"attention": (2,)}, "indices of widths"),
        ({"embedding": 7}, "even and at least 4"),
        ({"asymmetric": True, "residual_resampling": True}, "leave `asymmetric` out"),
    ):
        with pytest.raises(ValueError, match=words):
            fresh(**changes)
    with pytest.raises(ValueError, match="no network for 100 pixels: choose one of 64, 128, 256, 512"):
        adm(100)


def test_illegal_labels_are_refused():
    for label in (torch.tensor([0, 1, 4]), torch.tensor([0, -1, 2]), 4, torch.zeros(3)):
        with pytest.raises(ValueError, match="labels are whole numbers from 0 to 2, and 3 is the null label"):
            fresh()(images(), torch.ones(3), label)
    for label in (torch.zeros(2).long(), torch.zeros(3, 1).long(), [0, 1]):
        with pytest.raises(ValueError, match="label is one number, or one for each of the 3 items"):
            fresh()(images(), torch.ones(3), label)
    with pytest.raises(ValueError, match="without labels"):
        fresh(classes=0)(images(), torch.ones(3), torch.zeros(3).long())


def test_one_time_or_label_stands_for_all_items():
    net = fresh()
    torch.nn.init.normal_(net.head.weight)
    each = net(images(), torch.full((3,), 7.0), torch.full((3,), 2))
    assert torch.equal(net(images(), 7.0, 2), each) and torch.equal(net(images(), torch.tensor([7]), [2, 2, 2]), each)


def test_images_of_another_dtype_or_none_at_all_are_refused():
    with pytest.raises(ValueError, match=r"x is torch.float64, the network torch.float32"):
        fresh()(images().double(), torch.ones(3))
    with pytest.raises(ValueError, match="B > 0"):
        fresh()(images()[:0], torch.ones(0))


def test_ho2020_the_cifar10_recipe_trains_ddpms_own_network():
    ours, published = recipes.RECIPES["cifar10"].network(), ddpm_cifar10()
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.02)
    published.load_state_dict(ours.state_dict())
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([1.0, 700.0])
    with torch.no_grad():
        assert torch.equal(ours.eval()(x, t), published.eval()(x, t))
    assert str(ours) == str(published)  # dropout and groups, too


@pytest.mark.parametrize("embed", [time_embedding, improved_time_embedding])
def test_an_embedding_is_half_sines_half_cosines_of_a_time_each(embed):
    assert embed(torch.ones(3), 4).shape == (3, 4)
    for t, dim in ((torch.ones(3), 5), (torch.ones(3), 0), (torch.ones(3, 1), 4), (torch.tensor(1.0), 4)):
        with pytest.raises(ValueError, match=r"times are \(B,\) and a width is even"):
            embed(t, dim)


@pytest.mark.parametrize("name", ["channels", "blocks", "head_width", "patch", "groups", "classes", "heads"])
def test_a_networks_numbers_are_positive(name):
    least = 0 if name in ("classes", "heads") else 1
    legal = {"channels": 1, "widths": [8], "head_width": 1, "groups": 1}
    UNet(**legal | {name: least})
    with pytest.raises(ValueError, match=f"{name} = {least - 1}: give a finite number from {least}"):
        UNet(**legal | {name: least - 1})


def test_widths_and_dropout_are_in_range():
    UNet(1, (8,), head_width=8, dropout=0), UNet(1, (8,), head_width=8, dropout=1, out_channels=1)
    for changes, words in (
        ({"widths": (8, 0)}, "none below 1"),
        ({"out_channels": -1}, "out_channels = -1"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        ({"dropout": 1.1}, "dropout = 1.1"),
    ):
        with pytest.raises(ValueError, match=words):
            UNet(**{"channels": 1, "widths": (8,), "head_width": 8} | changes)
