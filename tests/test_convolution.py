"""Convolution arithmetic against PyTorch and brute force, over hundreds of configurations drawn by hypothesis.

Weights and inputs are small whole numbers in float64, so sums are exact and equal means equal to the last bit.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import close, randn, seeded
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddpm_path import convolution as cv
from ddpm_path.convolution import PIXELS, Field, Layer

many = settings(max_examples=300, deadline=None)
layers = st.builds(Layer, st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(1, 3))
sizes = st.integers(1, 14)


def whole_numbers(*shape, seed):
    return torch.randint(-4, 5, shape, generator=seeded(seed)).double()


def fits(size, layer):
    return size + 2 * layer.padding >= cv.effective_kernel(layer.kernel, layer.dilation)


@many
@given(sizes, layers)
def test_output_size_is_torchs_or_an_error_where_torch_has_one(size, layer):
    kernel, stride, padding, dilation = layer
    run = lambda: F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), None, stride, padding, dilation)  # noqa: E731
    if fits(size, layer):
        assert cv.output_size(size, *layer) == run().shape[2]
    else:
        with pytest.raises(RuntimeError):
            run()
        with pytest.raises(ValueError, match="enlarge the input or the padding"):
            cv.output_size(size, *layer)


@many
@given(st.integers(5, 40), st.integers(1, 5), st.integers(0, 6), st.integers(1, 4), st.integers(1, 2))
def test_dumoulin2016_rel1_2_3_4_5_6_7_15_as_the_guide_prints_them(i, k, p, s, d):
    assert cv.output_size(i, k) == (i - k) + 1  # 1
    assert cv.output_size(i, k, 1, p) == (i - k) + 2 * p + 1  # 2
    if k % 2:
        assert cv.output_size(i, k, 1, cv.half_padding(k)) == i  # 3
        assert cv.half_padding(k) == k // 2
    assert cv.output_size(i, k, 1, cv.full_padding(k)) == i + (k - 1)  # 4
    assert cv.output_size(i, k, s) == (i - k) // s + 1  # 5
    assert cv.output_size(i, k, s, p) == (i + 2 * p - k) // s + 1  # 6
    assert cv.output_size(i, k, s) == F.max_pool1d(torch.zeros(1, 1, i), k, s).shape[2]  # 7
    if i >= k + (k - 1) * (d - 1):
        assert cv.output_size(i, k, s, p, d) == (i + 2 * p - k - (k - 1) * (d - 1)) // s + 1  # 15
        if k % 2:
            assert cv.output_size(i, k, 1, cv.half_padding(k, d), d) == i  # "same", with gaps in the kernel
        assert cv.output_size(i, k, 1, cv.full_padding(k, d), d) == i + cv.effective_kernel(k, d) - 1
    assert cv.effective_kernel(k, d) == k + (k - 1) * (d - 1)


@many
@given(st.integers(5, 40), st.integers(1, 5), st.integers(0, 2), st.integers(1, 4))
def test_dumoulin2016_rel8_9_10_11_12_13_14_as_the_guide_prints_them(i, k, p, s):
    out = cv.output_size(i, k)
    assert cv.transposed_size(out, k) == out + (k - 1) == i  # 8
    out = cv.output_size(i, k, 1, p)
    assert cv.transposed_size(out, k, 1, p) == out + (k - 1) - 2 * p == i  # 9
    if k % 2:
        assert cv.transposed_size(i, k, 1, cv.half_padding(k)) == i  # 10
    assert cv.transposed_size(i + k - 1, k, 1, cv.full_padding(k)) == i + k - 1 - (k - 1)  # 11
    for pad in (0, p):  # 12, 13 where a is 0, and 14
        out, a = cv.output_size(i, k, s, pad), (i + 2 * pad - k) % s
        assert cv.output_padding(i, k, s, pad) == a
        assert cv.transposed_size(out, k, s, pad, 1, a) == s * (out - 1) + a + k - 2 * pad == i


@many
@given(sizes, layers, st.integers(0, 3))
def test_transposed_size_is_torchs(size, layer, extra):
    kernel, stride, padding, dilation = layer
    assume(extra < max(stride, dilation))
    out = stride * (size - 1) + extra + dilation * (kernel - 1) + 1 - 2 * padding
    if out < 1:
        with pytest.raises(ValueError, match="crops all of it"):
            cv.transposed_size(size, *layer, extra)
        return
    u, weight = torch.zeros(1, 1, size), torch.zeros(1, 1, kernel)
    found = F.conv_transpose1d(u, weight, None, stride, padding, extra, dilation=dilation)
    assert cv.transposed_size(size, *layer, extra) == found.shape[2]


@many
@given(sizes, layers)
def test_output_padding_leads_back_to_the_size_that_one_came_from(size, layer):
    """Relation 14 with dilation: of the `stride` sizes that share an output, each has a term of its own."""
    assume(fits(size, layer))
    a, out = cv.output_padding(size, *layer), cv.output_size(size, *layer)
    assert 0 <= a < layer.stride
    assert cv.transposed_size(out, *layer, a) == size
    assert cv.output_size(size - a, *layer) == out


@many
@given(st.tuples(sizes, sizes), layers, st.integers(1, 3), st.integers(1, 3), st.integers(0, 10_000))
def test_one_operator_five_ways_and_its_adjoint(size, layer, c_in, c_out, seed):
    """The matrix is the convolution; its transpose, torch's transposed convolution with a, autograd's gradient and

    an ordinary convolution of the stretched map are one; and <W x, u> = <x, W^T u>.
    """
    assume(all(fits(n, layer) for n in size))
    kernel, stride, padding, dilation = layer
    x, weight = whole_numbers(1, c_in, *size, seed=seed), whole_numbers(c_out, c_in, kernel, kernel, seed=seed + 1)
    x.requires_grad_()
    y = F.conv2d(x, weight, None, stride, padding, dilation)
    u = whole_numbers(*y.shape, seed=seed + 2)
    W = cv.matrix(weight, size, stride, padding, dilation)
    assert torch.equal(W @ x.flatten(), y.flatten())

    back = cv.transposed(u, weight, size, stride, padding, dilation)
    (gradient,) = torch.autograd.grad(y, x, u)
    assert back.shape == x.shape
    assert torch.equal(back, gradient)
    assert torch.equal(back.flatten(), W.T @ u.flatten())
    assert torch.equal(back, cv.by_convolution(u, weight, size, stride, padding, dilation))
    assert (y * u).sum() == (x * back).sum()


@settings(max_examples=100, deadline=None)
@given(sizes, layers)
def test_taps_say_which_input_each_output_reads(size, layer):
    assume(fits(size, layer))
    table = cv.taps(size, *layer)
    assert table.shape == (cv.output_size(size, *layer), layer.kernel, size)
    for o, j, i in table.nonzero().tolist():
        assert i == layer.stride * o + layer.dilation * j - layer.padding
    inside = [
        (o, j)
        for o in range(len(table))
        for j in range(layer.kernel)
        if 0 <= layer.stride * o + layer.dilation * j - layer.padding < size
    ]
    assert table.sum() == len(inside)


@pytest.mark.parametrize("function", [cv.output_size, cv.output_padding, cv.transposed_size, cv.taps])
def test_what_is_not_said_is_torchs(function):
    """Stride 1, no padding, no dilation, as for `F.conv2d`."""
    assert torch.equal(torch.as_tensor(function(7, 3)), torch.as_tensor(function(7, 3, 1, 0, 1)))


def test_kernels_of_whole_networks_are_torchs_where_nothing_is_said():
    x, weight = whole_numbers(1, 2, 5, 4, seed=0), whole_numbers(3, 2, 3, 3, seed=1)
    y = F.conv2d(x, weight)
    assert torch.equal(cv.matrix(weight, (5, 4)) @ x.flatten(), y.flatten())
    back = torch.nn.grad.conv2d_input(x.shape, weight, y)
    assert torch.equal(cv.transposed(y, weight, (5, 4)), back)
    assert torch.equal(cv.by_convolution(y, weight, (5, 4)), back)
    assert Layer(3) == Layer(3, 1, 0, 1)


def test_kernels_need_not_be_square():
    x, weight = whole_numbers(2, 2, 9, 7, seed=0), whole_numbers(3, 2, 2, 5, seed=1)
    y = F.conv2d(x, weight, None, 2, 1)
    u = whole_numbers(*y.shape, seed=2)
    assert torch.equal(cv.matrix(weight, (9, 7), 2, 1) @ x[1].flatten(), y[1].flatten())
    back = cv.transposed(u, weight, (9, 7), 2, 1)
    assert torch.equal(back, torch.nn.grad.conv2d_input(x.shape, weight, u, 2, 1))
    assert torch.equal(back, cv.by_convolution(u, weight, (9, 7), 2, 1))


def test_wrong_sizes_are_met_with_the_right_ones():
    with pytest.raises(ValueError, match=r"x is to be \(B, 3, 4, 4\)"):
        cv.transposed(torch.zeros(1, 3, 5, 4), torch.zeros(3, 2, 3, 3), (9, 9), 2)
    with pytest.raises(ValueError, match="only odd spans"):
        cv.half_padding(4)
    assert cv.half_padding(2, 2) == 1  # two weights two apart span three
    with pytest.raises(ValueError, match=r"28 is not divisible by 3: crop to 27 or pad to 30"):
        cv.checkerboard_energy(torch.zeros(1, 1, 28, 28), 3)
    with pytest.raises(ValueError, match=r"2 is not divisible by 3: pad to 3"):
        cv.checkerboard_energy(torch.zeros(1, 1, 3, 2), 3)


# Where units stand and what they see, against what an impulse reaches.


def run(x, stack):
    """Ones for weights, so that nothing cancels."""
    for (kernel, stride, padding, dilation), back in stack:
        convolve = F.conv_transpose1d if back else F.conv1d
        x = convolve(x, torch.ones(1, 1, kernel, dtype=x.dtype), None, stride, padding, dilation=dilation)
    return x


@many
@given(st.lists(layers, min_size=1, max_size=4))
def test_receptive_field_of_a_stack_is_what_reaches_a_unit(stack):
    field = cv.receptive_field(stack)
    size = 2 * int(field.size) + 2 * int(field.jump) + 60
    x = torch.zeros(1, 1, size, dtype=torch.float64, requires_grad=True)
    y = run(x, [(layer, False) for layer in stack])
    centres = field.start + field.jump * torch.arange(y.shape[2])
    half = (field.size - 1) / 2
    inside = ((centres - half >= 0) & (centres + half <= size - 1)).nonzero().flatten().tolist()
    for unit in inside[:1] + inside[-1:]:
        (seen,) = torch.autograd.grad(y[0, 0, unit], x, retain_graph=True)
        seen = seen[0, 0].nonzero().flatten()
        # Every unit on the way could lie in a padding; only a stack whose units all stand inside reaches its full span.
        assert centres[unit] - half <= seen.min() and seen.max() <= centres[unit] + half
        if all(layer.padding == 0 for layer in stack):
            assert (seen.min(), seen.max()) == (centres[unit] - half, centres[unit] + half)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(layers, st.booleans()), min_size=1, max_size=3))
def test_no_unit_after_up_sampling_sees_beyond_its_field(stack):
    x = torch.zeros(1, 1, 40, dtype=torch.float64, requires_grad=True)
    field, size = PIXELS, 40
    for layer, back in stack:
        left = layer.stride * (size - 1) + cv.effective_kernel(layer.kernel, layer.dilation) - 2 * layer.padding
        assume(size < 200 and (left > 0 if back else fits(size, layer)))
        size = cv.transposed_size(size, *layer) if back else cv.output_size(size, *layer)
        field = cv.transposed_field(layer, field) if back else cv.receptive_field([layer], field)
    y = run(x, stack)[0, 0]
    for unit in range(0, len(y), max(1, len(y) // 8)):
        (seen,) = torch.autograd.grad(y[unit], x, retain_graph=True)
        seen = seen[0, 0].nonzero().flatten().double()
        if len(seen):  # weights fewer than the stride leave units that see nothing
            off = (seen - (field.start + field.jump * unit)).abs().max()
            assert off <= (field.size - 1) / 2 + 1e-9


def test_fields_of_known_networks():
    vgg = [layer for n in (2, 2, 3, 3, 3) for layer in [*[Layer(3, 1, 1)] * n, Layer(2, 2)]]
    assert cv.receptive_field(vgg).size == 212 and cv.receptive_field([*vgg, Layer(7)]).size == 404
    assert cv.receptive_field([Layer(2, 2)]) == Field(2, 2, 0.5)
    assert cv.transposed_field(Layer(2, 2), cv.receptive_field([Layer(2, 2)])) == Field(3, 1, 0)
    assert cv.transposed_field(Layer(2, 2)) == Field(1.5, 0.5, -0.25)  # two units stand in each pixel
    for factor in (2, 3, 4, 8):  # units of an interpolation share out each pixel evenly
        field = cv.transposed_field(cv.bilinear_layer(factor))
        close([field.jump, field.start], [1 / factor, (1 / factor - 1) / 2], atol=1e-15)


def test_crop_offsets_are_whole_or_refused():
    with pytest.raises(ValueError, match="do not fall on each other"):
        cv.crop_offset(PIXELS, Field(2, 1, 0.5))
    with pytest.raises(ValueError, match="do not fall on each other"):
        cv.crop_offset(PIXELS, Field(2, 2, 1))
    assert cv.crop_offset(Field(9, 2, -3), Field(1, 2, 1)) == 2


# Bilinear interpolation [Long 2014, sec. 3.3].


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
def test_bilinear_transposed_convolution_is_interpolation_inside(factor):
    x = randn(2, 3, 7, 6)
    kernel, stride, padding, _ = cv.bilinear_layer(factor)
    assert (kernel, padding) == (2 * factor - factor % 2, math.ceil((factor - 1) / 2))
    got = F.conv_transpose2d(x, cv.bilinear_weight(3, kernel), None, stride, padding)
    true = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    close(got[inner], true[inner], atol=1e-14)
    assert (got - true).abs().max() > 0.1  # at the border it reads zeros where interpolation repeats the edge


@pytest.mark.parametrize("size", range(1, 17))
def test_bilinear_kernel_is_the_published_filter(size):
    """f = floor((k + 1) / 2), c = f - 1 or f - 1/2, (1 - |i - c| / f)(1 - |j - c| / f), entry by entry."""
    f = (size + 1) // 2
    c = f - 1 if size % 2 == 1 else f - 0.5
    kernel = cv.bilinear_kernel(size)
    for i in range(size):
        for j in range(size):
            assert kernel[i, j] == pytest.approx((1 - abs(i - c) / f) * (1 - abs(j - c) / f), abs=1e-15)
    assert torch.count_nonzero(cv.bilinear_weight(3, size)).item() <= 3 * size**2  # no channel into another


# Checkerboards [Odena 2016].


def test_overlaps_that_odena_draws():
    assert cv.overlap(3, 2, padding=1).tolist() == [1, 2]
    assert cv.overlap(5, 3, padding=2).tolist() == [1, 2, 2]
    assert cv.overlap(4, 2).tolist() == [2, 2]
    plane = cv.overlap(3, 2)[:, None] * cv.overlap(3, 2)
    assert sorted(plane.flatten().tolist()) == [1, 2, 2, 4]


@many
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_overlap_is_what_ones_through_ones_leave(kernel, stride, padding):
    assume(padding < kernel)
    pattern = cv.overlap(kernel, stride, padding)
    ones = torch.ones(1, 1, 24, dtype=torch.float64)
    seen = F.conv_transpose1d(ones, torch.ones(1, 1, kernel, dtype=torch.float64), None, stride, padding)[0, 0]
    inner = torch.arange(kernel, len(seen) - kernel)
    assert torch.equal(seen[inner], pattern[inner % stride])
    assert (len(set(pattern.tolist())) == 1) == (kernel % stride == 0)


@pytest.mark.parametrize("period", [2, 3, 4])
def test_checkerboard_energy_is_the_variance_between_phases(period):
    """Parseval, by the other road: fold the image into its phases, average each, take their variance."""
    x = randn(5, 3, 12, 24) + randn(5, 3, 1, 1, seed=1)
    phases = torch.stack([x[..., i::period, j::period].mean((2, 3)) for i in range(period) for j in range(period)])
    between = phases.var(0, correction=0).sum(1)  # (B,)
    close(cv.checkerboard_energy(x, period), between / x.var((2, 3), correction=0).sum(1), rtol=1e-12)


def test_checkerboard_energy_of_known_images():
    pattern = (cv.overlap(3, 2)[:, None] * cv.overlap(3, 2)).repeat(8, 8)[None, None]
    close(cv.checkerboard_energy(pattern, 2), [1.0])
    close(cv.checkerboard_energy(pattern, 4), [1.0])  # what repeats every 2 repeats every 4
    for dtype in (torch.float32, torch.float64):
        for size, value in ((8, 0.3), (12, 0.1), (30, -0.7), (6, 1e-9)):  # whose means are not exact
            close(cv.checkerboard_energy(torch.full((1, 1, size, size), value, dtype=dtype), 2), [0.0])
    wave = (torch.arange(16) * 2 * math.pi / 16).sin().expand(1, 1, 16, 16)
    close(cv.checkerboard_energy(wave, 2), [0.0], atol=1e-15)
    assert bool(cv.checkerboard_energy(torch.full((1, 1, 4, 4), math.nan), 2).isnan())
    # White noise spreads over 16 * 16 - 1 frequencies, 15 of them the grid's; relative spread sqrt(2 / 15 / 4000).
    noise = cv.checkerboard_energy(randn(4000, 1, 16, 16), 4)
    assert noise.mean() == pytest.approx(15 / 255, rel=5 * math.sqrt(2 / 15 / 4000))


def test_resize_convolution_is_a_transposed_convolution_whose_phases_agree():
    """Copying each pixel to 2x2 and sliding 3x3 is k4s2: each weight stands in the sums of both phases of its axis."""
    net = cv.resize_convolution(2, 3, 3, 2).double()
    weight, bias = net[1].weight, net[1].bias
    box = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    k4 = F.conv2d(F.pad(weight.flip(2, 3).flatten(0, 1)[:, None], (1, 1, 1, 1)), box).view(3, 2, 4, 4)
    x = randn(1, 2, 5, 6)
    close(net(x), F.conv_transpose2d(x, k4.transpose(0, 1), bias, 2, 1), atol=1e-13)
    sums = [k4[..., i::2, j::2].sum((2, 3)) for i in range(2) for j in range(2)]
    for other in sums[1:]:
        close(other, sums[0], atol=1e-13)
    flat = net(torch.ones(1, 2, 8, 8, dtype=torch.float64)).detach()[..., 2:-2, 2:-2]
    assert flat.var((2, 3)).max() < 1e-28


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cv.effective_kernel(0), "kernel = 0"),
        (lambda: cv.effective_kernel(3, 0), "dilation = 0"),
        (lambda: cv.output_size(9, 3, 0), "stride = 0"),
        (lambda: cv.output_size(9, 3, 1, -1), "padding = -1"),
        (lambda: cv.taps(-1, 2, 1, 2), "size = -1"),
        (lambda: cv.output_padding(9, 3, 0), "stride = 0"),
        (lambda: cv.transposed_field(Layer(3, 0)), "stride = 0"),
        (lambda: cv.transposed_size(3, 3, 0), "stride = 0"),
        (lambda: cv.transposed_size(0, 3), "size = 0"),
        (lambda: cv.transposed_size(3, 3, 2, 0, 1, 2), "output_padding = 2"),
        (lambda: cv.transposed_size(3, 3, 2, 0, 1, -1), "output_padding = -1"),
        (lambda: cv.overlap(3, 0), "stride = 0"),
        (lambda: cv.overlap(0, 2), "kernel = 0"),
        (lambda: cv.overlap(3, 2, -1), "padding = -1"),
        (lambda: cv.crop_offset(Field(1, 0, 0), Field(1, 0, 0)), "jump = 0"),
        (lambda: cv.matrix(torch.ones(2, 2, 3), (6, 7)), "x is to be"),
        (lambda: cv.transposed(torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3).double(), (6, 6)), "convert one"),
        (
            lambda: cv.by_convolution(torch.ones(1, 2, 4, 5), torch.ones(2, 2, 3, 3), (6, 6)),
            r"x is to be \(B, 2, 4, 4\)",
        ),
        (lambda: cv.bilinear_layer(0), "factor = 0"),
        (lambda: cv.bilinear_kernel(0), "size = 0"),
        (lambda: cv.bilinear_weight(0, 4), "channels = 0"),
        (lambda: cv.checkerboard_energy(torch.ones(0, 1, 4, 4), 2), "B > 0"),
        (lambda: cv.checkerboard_energy(torch.ones(1, 4, 4), 2), "x is to be"),
        (lambda: cv.checkerboard_energy(torch.ones(1, 1, 4, 4), 0), "period = 0"),
        (lambda: cv.resize_convolution(0, 1, 3, 2), "channels = 0"),
        (lambda: cv.resize_convolution(1, 0, 3, 2), "out_channels = 0"),
        (lambda: cv.resize_convolution(1, 1, 3, 0), "factor = 0"),
    ],
)
def test_sizes_below_1_and_maps_of_another_shape_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_smallest_sizes_are_legal():
    assert (cv.effective_kernel(1, 1), cv.output_size(1, 1), cv.output_padding(1, 1)) == (1, 1, 0)
    assert cv.bilinear_layer(1) == Layer(1, 1, 0) and cv.transposed_field(Layer(1)) == PIXELS
    assert cv.bilinear_weight(1, 1).tolist() == [[[[1.0]]]]
    assert cv.checkerboard_energy(torch.ones(1, 1, 2, 2), 1).tolist() == [0.0]
    assert cv.resize_convolution(1, 1, 1, 1)(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 2, 2)
