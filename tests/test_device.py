"""Where a training runs: one process or several give the same steps; the options that need a GPU say so."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from several import RECIPE

from ddpm_path.lab import train
from ddpm_path.lab.checkpoint import load
from ddpm_path.lab.datasets import digits
from ddpm_path.lab.device import Place, best_device, placed

CPU = torch.device("cpu")


def test_shares_tile_the_batch_and_uneven_ones_are_refused():
    parts = [list(range(12))[Place(rank, 3, CPU).share(12)] for rank in range(3)]
    assert [i for part in parts for i in part] == list(range(12)) and all(len(part) == 4 for part in parts)
    with pytest.raises(ValueError, match="batch 10 cannot be divided among 3 processes"):
        Place(0, 3, CPU).share(10)


def test_alone_the_place_is_the_best_device_and_all_of_the_batch(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with placed() as place:
        assert place == Place(0, 1, best_device()) and place.leads and place.share(7) == slice(0, 7)
        assert float(place.mean(torch.tensor(3.0))) == 3.0


def test_bf16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="bf16 saves time on a GPU"), placed(bf16=True):
        pass


def test_bf16_rounds_the_network_s_products_and_answers_in_float32():
    net = torch.nn.Linear(64, 64)
    answer = Place(0, 1, CPU, bf16=True).runner(lambda x, t, label: net(x))
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    assert answer(x, torch.ones(8)).dtype == torch.float32
    error = (answer(x, torch.ones(8)) - net(x)).abs().max().detach()
    assert 1e-4 < float(error) < 0.05  # 8 bits of mantissa


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    """The same global batch, times and noise: losses, gradient norms and weights agree to float32's rounding."""
    script = Path(__file__).parent / "several.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for _ in range(2):  # the second finds all done, and resumes: no process disturbs another's log
        subprocess.run([*launcher, str(script), str(tmp_path / "two")], check=True, capture_output=True, timeout=600)
    train_one = pytest.MonkeyPatch()
    train_one.setattr(train, "_picture", lambda *arguments: None)
    train.train(RECIPE, digits(8), tmp_path / "one", save_every=4)
    train_one.undo()
    logs = [torch.tensor([entry[1:4] for entry in train.read_log(tmp_path / name)]) for name in ("one", "two")]
    assert len(logs[0]) == RECIPE.steps
    torch.testing.assert_close(logs[0], logs[1], rtol=1e-4, atol=0)
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    for key, value in one.weights["net"].items():
        # Adam's first steps are lr * sign(gradient): where a gradient is near 0 rounding can turn it.
        torch.testing.assert_close(value, two.weights["net"][key], rtol=0, atol=2e-4)
    assert [path.name for path in (tmp_path / "two").glob("checkpoint-*")] == ["checkpoint-000008"]
