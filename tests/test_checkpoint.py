"""Checkpoints are whole or not there, and a folder has one writer."""

import errno
import subprocess
import sys

import pytest
import torch
from crash import crash

from ddpm_path.lab import checkpoint
from ddpm_path.lab.checkpoint import alone, append, load, save

WEIGHTS = {"net": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}, "ema": {"a": torch.ones(1).half()}}
STATE = {"recipe": {"lr": 2e-3}, "optimiser": {"step": torch.tensor(7)}}


def check(found, steps: int) -> None:
    assert found is not None and found.steps == steps
    assert found.state["recipe"] == STATE["recipe"] and int(found.state["optimiser"]["step"]) == 7
    for name, tensors in WEIGHTS.items():
        for key, value in tensors.items():
            assert torch.equal(found.weights[name][key], value) and found.weights[name][key].dtype == value.dtype


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_and_replaces_what_was(tmp_path):
    assert load(tmp_path) is None
    save(tmp_path, 10, {"net": {"a": torch.zeros(1)}}, {})
    save(tmp_path, 20, WEIGHTS, STATE)
    check(load(tmp_path), 20)
    assert names(tmp_path) == ["checkpoint-000020"]


def test_weights_that_are_not_contiguous_come_back_equal(tmp_path):
    turned = torch.arange(6.0).view(2, 3).T
    save(tmp_path, 1, {"net": {"a": turned}}, {})
    assert torch.equal(load(tmp_path).weights["net"]["a"], turned)


@pytest.mark.parametrize("broken", ["save_file", "torch.save", "rename"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("write failed"), KeyboardInterrupt()]
)
def test_the_last_checkpoint_survives_a_full_disk_and_an_interruption(tmp_path, monkeypatch, broken, error):
    save(tmp_path, 10, WEIGHTS, STATE)

    def fails(*arguments, **named):
        raise error

    target = {
        "save_file": (checkpoint, "save_file"),
        "torch.save": (torch, "save"),
        "rename": (checkpoint.Path, "rename"),
    }
    monkeypatch.setattr(*target[broken], fails)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError):
        save(tmp_path, 20, {"net": {"a": torch.zeros(1)}}, {})
    monkeypatch.undo()
    check(load(tmp_path), 10)
    assert names(tmp_path) == ["checkpoint-000010"], "nothing half-written is left"


def test_what_a_killed_writer_left_is_ignored_and_swept_away(tmp_path):
    save(tmp_path, 10, WEIGHTS, STATE)
    part = tmp_path / ".checkpoint.part"
    part.mkdir()
    (part / "net.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoint-000005").mkdir()  # one that was being removed
    check(load(tmp_path), 10)
    save(tmp_path, 20, WEIGHTS, STATE)
    check(load(tmp_path), 20)
    assert not part.exists()


@pytest.mark.parametrize("file", ["net.safetensors", "state.pt"])
@pytest.mark.parametrize("keep", [0, 20])
def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path, file, keep):
    save(tmp_path, 10, WEIGHTS, STATE)
    path = tmp_path / "checkpoint-000010" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"checkpoint-000010 is damaged.*delete it"):
        load(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (print, ("this ran",))

    save(tmp_path, 10, WEIGHTS, STATE)
    torch.save({"state": Malicious()}, tmp_path / "checkpoint-000010" / "state.pt")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path)


def test_a_second_writer_is_turned_away_until_the_first_is_gone(tmp_path):
    holds = (
        "import sys; from pathlib import Path; from ddpm_path.lab.checkpoint import alone\n"
        "with alone(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", holds, str(tmp_path / "run")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another training writes"), alone(tmp_path / "run"):
            pass
        other.kill()  # as `kill -9` does: the lock goes with its holder
    with alone(tmp_path / "run"):
        pass


def test_rows_are_added_under_one_header(tmp_path):
    path = tmp_path / "log.csv"
    append(path, ["step", "loss"], [[0, 0.5], [1, 0.25]])
    append(path, ["step", "loss"], [[2, 0.125]])
    assert path.read_text().split() == ["step,loss", "0,0.5", "1,0.25", "2,0.125"]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_never_was():
    """`python tests/crash.py 25` does it in full."""
    assert crash(4) == 2
