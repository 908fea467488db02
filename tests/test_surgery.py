"""Cut networks: what was cut is gone, the rest is as it was, and so is the network itself."""

import torch
from helpers import seeded

from ddpm_path.lab import surgery
from ddpm_path.unet import Attention, UNet, time_embedding


def network():
    """Three levels of different widths, two blocks each, every parameter drawn."""
    net, generator = UNet(1, (8, 16, 24), (1,), 2, head_width=8, groups=4), seeded(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
    return net.eval()


def x(seed=1):
    return torch.randn(2, 1, 16, 16, generator=seeded(seed))


def test_ronneberger2015_a_stage_without_skips_does_not_hear_the_way_down():
    """Only what comes from below is left in the input of each of its blocks: 24, 24, 16 channels and so on."""
    net, below = network(), {0: (24, 24, 24), 1: (24, 16, 16), 2: (16, 8, 8)}
    for stage, widths in below.items():
        for cut, deaf in ((surgery.without_skips(net, stage), True), (net, False)):
            for block, width in zip(cut.up[stage], widths, strict=True):
                seen = {}
                handle = block.block.register_forward_hook(
                    lambda module, args, out, seen=seen: seen.update(x=args[0].detach())
                )
                cut(x(), 500.0)
                handle.remove()
                assert (float(seen["x"][:, width:].abs().max()) == 0) == deaf
                assert seen["x"].shape[1] > width and float(seen["x"][:, width - 1].abs().max()) > 0


def test_a_network_is_not_cut_itself_and_other_stages_are_left_alone():
    net = network()
    before = net(x(), 500.0)
    cuts = [surgery.without_skips(net, stage)(x(), 500.0) for stage in (0, 1, 2, -1)]
    assert torch.equal(net(x(), 500.0), before)
    assert torch.equal(cuts[2], cuts[3])  # -1 is the finest
    for i, a in enumerate([before, *cuts[:3]]):
        for b in cuts[i:3]:
            assert float((a - b).detach().abs().max()) > 1e-3


def test_without_skips_equals_convolutions_that_do_not_read_them():
    """Of one block: zero the skip's channels by hand, in and behind the concatenation."""
    net = network()
    cut, block = surgery.without_skips(net, 2), net.up[2][2].block
    seen = {}
    cut.up[2][2].block.register_forward_hook(lambda module, args, out: seen.update(x=args[0], cond=args[1], out=out))
    cut(x(), 500.0)
    zeroed = torch.cat([seen["x"][:, :8], torch.zeros_like(seen["x"][:, 8:])], 1)
    assert torch.equal(block(zeroed, seen["cond"]), seen["out"])


def test_without_attention_equals_projections_of_zero():
    net, plain = network(), network()
    for module in plain.modules():
        if isinstance(module, Attention):
            torch.nn.init.zeros_(module.out.weight)
    torch.testing.assert_close(surgery.without_attention(net)(x(), 500.0), plain(x(), 500.0))
    assert float((net(x(), 500.0) - plain(x(), 500.0)).detach().abs().max()) > 1e-3


def test_a_frozen_embedding_is_another_time():
    net = network()
    frozen = surgery.with_embedding(net, lambda t, dim: time_embedding(torch.full_like(t, 500.0), dim))
    assert torch.equal(frozen(x(), 3.0), net(x(), 500.0)) and net.embed is time_embedding
