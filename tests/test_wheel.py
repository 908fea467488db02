"""The package as a user installs it: a plain `pip install .` into an empty environment, far from the clone."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

CLONE = Path(__file__).parent.parent

PROGRAM = """
import torch
from ddpm_path.guidance import clip_x0
from ddpm_path.lab import datasets, zoo
from ddpm_path.samplers import ancestral, last, start_noise
from ddpm_path.schedule import uniform_times

net, schedule = zoo.load("digits")
x = last(ancestral(clip_x0(net, schedule), schedule, start_noise(4, (1, 16, 16)), uniform_times(schedule.T, 10)))
nearest = torch.cdist(x.flatten(1), datasets.digits().train.flatten(1)).amin(1)
assert nearest.max() < 10, nearest  # pure noise of this size lies 20 from every digit, and two digits 8 apart
print("sampled", tuple(x.shape))
"""


@pytest.mark.slow
def test_plain_pip_install_samples_outside_the_clone(tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    binaries = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    python = binaries / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", CLONE / "constraints.txt", CLONE], check=True)

    def call(*command):
        return subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)

    sampled = call(python, "-c", PROGRAM)
    assert sampled.stdout.strip() == "sampled (4, 1, 16, 16)", sampled.stderr
    where = call(python, "-c", "import ddpm_path; print(ddpm_path.__file__)")
    assert str(CLONE) not in where.stdout
    typed = call(
        python, "-c", "from importlib.resources import files; assert (files('ddpm_path') / 'py.typed').is_file()"
    )
    assert typed.returncode == 0, typed.stderr

    outside = call(binaries / "ddpm-path", "run")
    assert outside.returncode == 2 and "clone" in outside.stderr, outside.stderr
    assert call(binaries / "ddpm-path", "list").returncode == 0
