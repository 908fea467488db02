"""The training loop: its parts against closed forms, and a stopped run against one that never stopped."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from ddpm_path.lab import checkpoint, making, recipes, train, zoo
from ddpm_path.lab.datasets import digits, to_display
from ddpm_path.lab.device import Place
from ddpm_path.lab.recipes import ClassifierRecipe, Recipe, for_images
from ddpm_path.schedule import VE, VP
from ddpm_path.unet import UNet

TINY = Recipe(
    "digits",
    {"channels": 1, "classes": 10, "patch": 2, "widths": [8, 16], "attention": [1], "head_width": 8, "groups": 4},
    steps=20,
    batch=16,
    warmup=5,
)


@pytest.fixture(scope="module")
def data():
    return digits(8)


def spied(monkeypatch):
    """What the loss is called with, step by step."""
    calls, simple = [], train.recipes.LOSSES["simple"]

    def spying(*arguments):
        calls.append(arguments)
        return simple(*arguments)

    monkeypatch.setitem(train.recipes.LOSSES, "simple", spying)
    return calls


def quiet(monkeypatch):
    """Without the sample grids, which cost most of the time."""
    monkeypatch.setattr(train, "_picture", lambda *arguments: None)


def test_stratified_times_are_uniform_and_one_to_a_slice():
    draw, T, batch = torch.Generator().manual_seed(0), 50, 20
    times = torch.stack([train.stratified_times(batch, T, draw) for _ in range(5000)])  # (5000, batch)
    slices = torch.arange(batch) * T / batch
    assert bool((times >= 1 + slices.floor()).all() and (times <= 1 + (slices + T / batch).ceil()).all())
    counts = times.flatten().long().bincount(minlength=T + 1)
    assert counts[0] == 0 and len(counts) == T + 1  # both ends: 0 is data, T is trained
    # 100,000 draws over 50 times: 2,000 each, standard deviation at most 45 (less, for stratified draws).
    assert bool((counts[1:] - 2000).abs().max() < 5 * 45)


def test_stratified_moments_are_uniform_between_their_ends_and_one_to_a_slice():
    draw, batch, first = torch.Generator().manual_seed(0), 20, 0.25
    times = torch.stack([train.stratified_moments(batch, first, 1.0, draw) for _ in range(5000)])  # (5000, batch)
    slices = first + (1 - first) * torch.arange(batch) / batch
    assert times.dtype == torch.float64
    assert bool((times >= slices).all() and (times <= slices + (1 - first) / batch).all())
    # Within its slice each is uniform: mean of 5,000 at 1/2, standard deviation sqrt(1 / 12 / 5000) = 0.0041.
    assert bool((((times - slices) * batch / (1 - first)).mean(0) - 0.5).abs().max() < 5 * 0.0041)


def test_esser2024_logit_normal_times_have_the_normal_s_distribution_in_their_logits():
    normal, draw, T, batch = torch.distributions.Normal(0, 1), torch.Generator().manual_seed(0), 50, 20
    times = torch.stack([train.stratified_times(batch, T, draw, train.logit_normal) for _ in range(5000)])
    assert bool((times[:, 1:] >= times[:, :-1]).all())  # still one to a slice
    below = (times.flatten().long().bincount(minlength=T + 1).cumsum(0) / times.numel())[1:T]  # at or below 1..T-1
    # 100,000 draws: a share's standard deviation is at most 0.0016.
    assert bool((below - normal.cdf(torch.arange(1, T).div(T).logit())).abs().max() < 5 * 0.0016)
    assert times.min() >= 1 and times.max() <= T
    moments = torch.cat([train.stratified_moments(batch, 0.25, 1.0, draw, train.logit_normal) for _ in range(5000)])
    logits = ((moments - 0.25) / 0.75).logit()
    # Mean and variance of 100,000 normal numbers: standard deviations 0.0032 and 0.0045.
    assert abs(float(logits.mean())) < 5 * 0.0032 and abs(float(logits.var()) - 1) < 5 * 0.0045


@pytest.mark.parametrize("betas", ["cosine", "vp"])
def test_a_recipe_s_times_are_logit_normal_where_it_says_so(data, monkeypatch, betas):
    quiet(monkeypatch)
    losses, recipe = spied(monkeypatch), replace(TINY, steps=2, betas=betas)
    train.train(recipe, data)
    train.train(replace(recipe, logit_normal=True), data)
    last = recipe.schedule().T
    (even, _), (uneven, _) = ([call[4] for call in losses[i : i + 2]] for i in (0, 2))
    torch.testing.assert_close(uneven / last, train.logit_normal(even / last), atol=2e-3, rtol=0)


def test_two_ways_to_draw_times_are_refused(data):
    with pytest.raises(ValueError, match="choose one"):
        train.train(replace(TINY, importance=True, logit_normal=True), data)


def test_a_network_of_an_sde_is_shown_the_sde_s_levels_on_a_chain_s_clock(data, monkeypatch):
    """Times in [first, 1] make x_t by the SDE's own (scale, std), and the network is handed 1,000 t."""
    quiet(monkeypatch)
    recipe, handed, forward = replace(TINY, steps=3, betas="vp"), [], UNet.forward

    def listening(self, x, t, label=None):
        handed.append(t)
        return forward(self, x, t, label)

    monkeypatch.setattr(UNet, "forward", listening)
    losses = spied(monkeypatch)
    train.train(recipe, data)
    assert all(schedule == VP() for _, _, schedule, *_ in losses)
    for (*_, t, _), net_t in zip(losses, handed, strict=True):
        assert bool((t >= 1e-5).all() and (t <= 1).all())
        torch.testing.assert_close(net_t, (1000 * t).float())


def test_song2020_technique3_a_recipe_of_T_0_hides_the_time(data, monkeypatch):
    """Trained and loaded alike: the network is handed 0, whatever the level."""
    quiet(monkeypatch)
    recipe, handed, forward = replace(TINY, steps=2, betas="ve-digits", T=0, prediction="eps"), [], UNet.forward

    def listening(self, x, t, label=None):
        handed.append(t)
        return forward(self, x, t, label)

    monkeypatch.setattr(UNet, "forward", listening)
    losses = spied(monkeypatch)
    train.train(recipe, data)
    assert all(bool((t == 0).all()) for t in handed) and len(handed) == 2
    assert all(float(t.max()) > 0.5 and schedule == VE(0.02, 18.5) for _, _, schedule, _, t, _ in losses)


def test_training_on_dequantised_images_draws_afresh_within_each_pixel_s_bin(data, monkeypatch):
    quiet(monkeypatch)
    losses = spied(monkeypatch)
    train.train(replace(TINY, steps=2, dequantise=True), data)
    levels = [(x0 + 1) * 127.5 for *_, x0, _, _ in losses]
    offsets = [level - level.round() for level in levels]
    shown = {image.numpy().tobytes() for image in to_display(data.train)}
    assert all(image.numpy().tobytes() in shown for *_, x0, _, _ in losses for image in to_display(x0))
    assert all(0.2 < float(offset.std()) < 0.4 for offset in offsets)  # of a uniform number of width 1: 0.289
    assert not torch.equal(offsets[0], offsets[1])


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    recipe = replace(TINY, steps=100, warmup=10, lr=1.0)
    rates = [train.learning_rate(step, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)  # half way down the cosine
    assert 0 < rates[99] < 0.001 and all(a >= b for a, b in itertools.pairwise(rates[10:]))
    twice = replace(recipe, steps=150, restart=100)
    assert [train.learning_rate(step, twice) for step in range(100)] == rates
    again = [train.learning_rate(step, twice) for step in range(100, 150)]
    assert again == [train.learning_rate(step, replace(recipe, steps=50)) for step in range(50)]
    shorter = [train.learning_rate(step, replace(recipe, restart=1000)) for step in range(100)]
    assert shorter == rates  # it ends before its restart, and falls to 0 there
    flat = [train.learning_rate(step, replace(recipe, constant=True)) for step in range(100)]
    assert flat == rates[:10] + 90 * [1.0]


def test_ema_forgets_its_initial_weights_as_the_warm_up_says():
    net, ema = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.ones_(ema.weight)  # what is left of it is the product of the decays
    for step in range(50):
        train.update_ema(ema, net, step, 0.8)
    expected = math.prod(min(0.8, (1 + step) / (10 + step)) for step in range(50))
    assert ema.weight.item() == pytest.approx(expected, rel=1e-5)


def test_every_epoch_is_a_new_order_of_all_images():
    epochs = [torch.cat([train._batch(step, TINY, 64) for step in range(4 * e, 4 * e + 4)]) for e in range(3)]
    for order in epochs:
        assert order.sort().values.tolist() == list(range(64))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])


def test_labels_are_dropped_example_by_example(data, monkeypatch):
    losses = spied(monkeypatch)
    train.train(replace(TINY, steps=30, label_dropout=0.3), data)
    dropped = torch.stack([net.keywords["label"] == 10 for net, *_ in losses]).double()  # (30, 16)
    assert abs(dropped.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / dropped.numel())
    # Dropping whole batches would give rows of 0 or 1; binomial rows have variance 0.21 / 16.
    assert dropped.mean(1).var() < 3 * 0.21 / 16


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_ho2022_the_null_row_learns_from_dropped_examples_alone(data, monkeypatch, dropout):
    """No example dropped: no gradient for the null label. All dropped: for no other."""
    gradients = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, most):
        parameters = list(parameters)
        gradients.extend(p.grad.clone() for p in parameters if p.shape[0] == 11)  # the table of labels
        return clip(parameters, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    trained = train.train(replace(TINY, steps=8, label_dropout=dropout), data)
    assert [name for name, p in trained.net.named_parameters() if p.shape[0] == 11] == ["label.weight"]
    classes, null = torch.stack(gradients).split([10, 1], dim=1)
    nothing, something = (null, classes) if dropout == 0 else (classes, null)
    assert not bool(nothing.any()) and bool(something.any())


def test_training_learns_more_than_the_average_image(data):
    trained = train.train(replace(TINY, steps=100, prediction="x0", lr=5e-3), data)
    images = data.train
    mean_image = float((images - images.mean(0)).square().mean())  # the best answer that ignores x_t
    assert sum(entry.loss for entry in trained.log[-20:]) / 20 < 0.8 * mean_image


def stop_after_a_checkpoint(monkeypatch, recipe, data, folder):
    """Train for ten steps and be interrupted when their checkpoint is written."""
    save = train.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train.train(recipe, data, folder, save_every=10)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_stopped_and_resumed_run_is_the_run_that_never_stopped(data, tmp_path, monkeypatch, dropout):
    quiet(monkeypatch)
    recipe = replace(TINY, net=TINY.net | {"dropout": dropout})
    straight = train.train(recipe, data)

    stop_after_a_checkpoint(monkeypatch, recipe, data, tmp_path)
    torch.rand(7)  # the global generator has moved on meanwhile
    resumed = train.train(recipe, data, tmp_path, save_every=10)
    for one, other in ((straight.net, resumed.net), (straight.ema, resumed.ema)):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    assert [entry[:4] for entry in straight.log] == [entry[:4] for entry in resumed.log]
    assert train.read_log(tmp_path) == resumed.log


@pytest.mark.parametrize("torn", ["", "10,0.5,0.1", "10,0.5,0.1,0.2,", "10,0.5,0.1,0.2,3.0\n11,0."])
def test_rows_written_after_the_last_checkpoint_are_written_anew(data, tmp_path, monkeypatch, torn):
    """The log is written before its checkpoint: a run killed in between leaves rows too many, the last one torn."""
    quiet(monkeypatch)
    stop_after_a_checkpoint(monkeypatch, TINY, data, tmp_path)
    before = train.read_log(tmp_path)
    with (tmp_path / "log.csv").open("a") as file:
        file.write(torn)
    log = train.train(TINY, data, tmp_path, save_every=10).log
    assert log[:10] == before and [entry.step for entry in log] == list(range(20))
    assert train.read_log(tmp_path) == log


def test_rows_are_written_once_however_often_they_are_saved(data, tmp_path, monkeypatch):
    quiet(monkeypatch)
    stop_after_a_checkpoint(monkeypatch, TINY, data, tmp_path)  # after 10 steps
    log = train.train(TINY, data, tmp_path, save_every=4).log
    assert train.read_log(tmp_path) == log and [entry.step for entry in log] == list(range(20))


def test_a_run_of_another_recipe_or_a_damaged_one_is_not_overwritten(data, tmp_path, monkeypatch):
    quiet(monkeypatch)
    train.train(replace(TINY, steps=2), data, tmp_path)
    weights = tmp_path / "checkpoint-000002" / "net.safetensors"
    before = weights.read_bytes()
    with pytest.raises(ValueError, match="another recipe"):
        train.train(TINY, data, tmp_path)
    others = data._replace(train=data.train.flip(3))
    with pytest.raises(ValueError, match="other training images"):
        train.train(replace(TINY, steps=2), others, tmp_path)
    weights.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="damaged"):
        train.train(replace(TINY, steps=2), data, tmp_path)
    assert weights.read_bytes() == before[: len(before) // 2]


def test_a_loss_that_explodes_stops_at_once_and_keeps_the_checkpoint(data, tmp_path, monkeypatch):
    quiet(monkeypatch)
    rate = train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda step, recipe: 1e30 if step >= 6 else rate(step, recipe))
    with pytest.raises(FloatingPointError, match=r"at step [7-9] \(lr 1e\+30, torch.float32\)"):
        train.train(TINY, data, tmp_path, save_every=5)
    kept = train.load(tmp_path)
    assert kept.steps == 5 and all(value.isfinite().all() for value in kept.weights["net"].values())


def test_illegal_images_are_named_before_training(data):
    for broken, message in (
        ((data.train + 1) * 127.5, r"span \[0, 255\]; expected \[-1, 1\]"),
        ((data.train + 1) / 2, r"span \[0, 1\]; expected"),
        (data.train.clone().index_fill_(0, torch.tensor([3, 5]), math.nan), "2 images hold NaN .* number 3"),
        (data.train[:4], "batch 16 exceeds the 4 training images"),
    ):
        with pytest.raises(ValueError, match=message):
            train.train(TINY, data._replace(train=broken))
    with pytest.raises(ValueError, match="10 is not divisible by 4: nearest legal sizes 8, 12"):
        train.train(TINY, data._replace(train=torch.nn.functional.pad(data.train, (1, 1, 1, 1), value=-1.0)))


def test_two_trainings_do_not_write_to_one_folder(data, tmp_path, monkeypatch):
    quiet(monkeypatch)
    with train.alone(tmp_path), pytest.raises(ValueError, match="another training writes"):
        train.train(TINY, data, tmp_path)


def test_a_full_disk_stops_the_run_and_keeps_its_last_checkpoint(data, tmp_path, monkeypatch):
    quiet(monkeypatch)
    real, saves = checkpoint.save_file, []

    def fills(*arguments):
        saves.append(arguments)
        if len(saves) > 2:  # the first checkpoint took two
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", fills)
    with pytest.raises(OSError, match="No space left"):
        train.train(TINY, data, tmp_path, save_every=5)
    assert train.load(tmp_path).steps == 5
    monkeypatch.setattr(checkpoint, "save_file", real)
    resumed, straight = train.train(TINY, data, tmp_path, save_every=5), train.train(TINY, data)
    for a, b in zip(resumed.net.parameters(), straight.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_half_of_the_images_are_mirrored_each_time_others(data, monkeypatch):
    quiet(monkeypatch)
    losses = spied(monkeypatch)
    train.train(replace(TINY, steps=20, flip=True), data)
    images = {image.numpy().tobytes() for image in data.train}
    kept = torch.tensor([[image.numpy().tobytes() in images for image in x0] for *_, x0, _, _ in losses])  # (20, 16)
    mirrored = [image.flip(2).contiguous().numpy().tobytes() in images for *_, x0, _, _ in losses for image in x0]
    assert all(a or b for a, b in zip(kept.flatten().tolist(), mirrored, strict=True))
    assert abs(float(kept.double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(kept.numel())


def test_a_folder_that_cannot_be_written_is_told_before_training(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        train.train(replace(TINY, steps=10**9), data, tmp_path / "file" / "run")


def test_a_network_without_labels_trains_and_is_drawn_from(data, tmp_path):
    recipe = replace(TINY, net=TINY.net | {"classes": 0}, steps=2)
    train.train(recipe, data, tmp_path, save_every=1)
    assert (tmp_path / "samples-000002.png").exists()
    with pytest.raises(ValueError, match="the network has 7 classes, digits8 has 10"):
        train.train(replace(TINY, net=TINY.net | {"classes": 7}), data)


def test_unknown_recipe_is_met_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        making.make("digit", tmp_path)


@pytest.mark.parametrize("name", ["digits-recogniser", "digits-classifier", "scenes-unet"])
@pytest.mark.parametrize("place", [{"of": 2}, {"bf16": True}, {"compiled": True}])
def test_what_trains_in_one_process_says_so_instead_of_training_in_two(name, place, tmp_path):
    with pytest.raises(ValueError, match="trains in one process and in float32"):
        making.make(name, tmp_path, place=Place(**{"rank": 0, "of": 1, "device": torch.device("cpu")} | place))
    assert list(tmp_path.iterdir()) == []


def test_a_recogniser_is_made_as_its_recipe_says(tmp_path, monkeypatch):
    recipe = recipes.RecogniserRecipe("digits", epochs=1, net={"channels": 1, "classes": 10, "width": 4})
    monkeypatch.setitem(recipes.RECOGNISERS, "narrow", recipe)
    making.make("narrow", tmp_path)
    assert zoo.load_recogniser("narrow", tmp_path).head.in_features == 64


def test_maximise_climbs_to_the_top_and_names_a_value_that_is_not_finite():
    at = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    train.maximise(lambda: -(at - torch.tensor([1.0, 0.5])).square().sum(), [at], 300, 0.1, "climb")
    torch.testing.assert_close(at.detach(), torch.tensor([1.0, 0.5]), rtol=0, atol=1e-3)
    with pytest.raises(FloatingPointError, match="objective nan at step 0: lower lr"):
        train.maximise(lambda: at.sum() * math.nan, [at], 3, 0.1, "fall")


# --- the noisy classifier

READER = ClassifierRecipe(
    "digits",
    {"channels": 1, "classes": 10, "size": 8, "patch": 2, "widths": [16, 32], "attention": [1], "head_width": 16},
    steps=60,
    batch=32,
    lr=1e-2,
    warmup=5,
)


class Records(torch.nn.Module):
    """Answers a guess that it can train, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.guess, self.shown = torch.nn.Parameter(torch.zeros(10)), []

    def forward(self, x, t):
        self.shown.append((x, t))
        return self.guess.expand(len(x), 10).log_softmax(1)


@pytest.mark.parametrize("last", [1000, 300, 1])
def test_dhariwal2021_sec4_a_classifier_is_shown_images_as_noisy_as_it_is_told(data, monkeypatch, last):
    net = Records()
    monkeypatch.setattr(ClassifierRecipe, "network", lambda recipe: net)
    train.train_classifier(replace(READER, last=last, batch=300), data)
    x, t = (torch.cat(parts) for parts in zip(*net.shown, strict=True))
    assert t.min() == 1 and t.max() == last and bool((t == t.round()).all())
    for low, high in ((1, 1), (200, 250), (900, 1000)):
        some = x[(t >= low) & (t <= high)]
        if len(some) > 100:
            scale, std = READER.schedule()((low + high) / 2)
            level = scale**2 * data.train.square().mean() + std**2
            assert abs(some.square().mean() / level - 1) < 0.1, (low, high)


def test_a_classifier_learns_repeats_and_leaves_the_global_seed_alone(data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    net, again = (train.train_classifier(replace(READER, last=200, steps=120), data) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    seen = net(data.train, torch.ones(len(data.train))).argmax(1)
    assert (seen == data.train_labels).double().mean() > 0.5  # a guess is right in 0.1
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_a_classifier_whose_loss_explodes_says_so_and_odd_images_are_refused(data):
    with pytest.raises(FloatingPointError, match=r"loss (nan|inf) at step \d: lower lr = 1e\+30"):
        train.train_classifier(replace(READER, lr=1e30, warmup=1), data)
    with pytest.raises(ValueError, match="expected"):
        train.train_classifier(READER, data._replace(train=(data.train + 1) * 127.5))


def test_a_recipe_for_own_images_fits_their_size_and_keeps_small_grids():
    for size in (8, 16, 24, 32, 48, 64, 128, 256):
        recipe = for_images("mine", 3, size, 0, 500)
        net = recipe.network()
        assert size / net.patch <= 16 and net(torch.zeros(1, 3, size, size), torch.ones(1)).shape == (1, 3, size, size)
    for size, nearest in ((28, "24, 32"), (40, "32, 48"), (6, "8$")):
        with pytest.raises(ValueError, match=f"{size} is not divisible by .*: nearest legal sizes {nearest}"):
            for_images("mine", 3, size, 0, 500)
