"""The doctor finds what is planted, names it, and says what mends it; a sound machine has no problem."""

import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from jupyter_client.kernelspec import NoSuchKernel

from ddpm_path.lab import doctor, zoo
from ddpm_path.lab.doctor import Finding, examine, report


def problems(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings if finding.remedy}


@pytest.fixture
def sound(monkeypatch, tmp_path):
    """This machine, but for what may truly be amiss on it."""
    monkeypatch.setenv("DDPM_PATH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    return monkeypatch


def test_a_sound_machine_has_no_problem(sound):
    findings = examine()
    assert not problems(findings)
    assert {"python", "torch", "device", "data", "model digits", "kernel", "disk"} <= {f.subject for f in findings}
    assert report(findings).endswith("\nno problems")


def test_a_damaged_model_is_named_with_its_remedy(sound, tmp_path):
    shutil.copytree(zoo.ZOO, tmp_path / "zoo")
    path = tmp_path / "zoo" / "digits.safetensors"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    verify = zoo.verify
    sound.setattr(doctor.zoo, "verify", lambda name: verify(name, tmp_path / "zoo"))
    found = problems(examine())
    assert list(found) == ["model digits"]
    assert "damaged" in found["model digits"].state and "git checkout data/zoo" in found["model digits"].remedy


def test_more_threads_than_cores_is_a_problem(sound):
    sound.setattr(torch, "get_num_threads", lambda: 999)
    assert "OMP_NUM_THREADS" in problems(examine())["threads"].remedy


@pytest.mark.parametrize(("version", "state"), [("0.0.1", "0.0.1"), (None, "missing")])
def test_a_package_that_is_old_or_missing_is_named(sound, version, state):
    real = doctor.importlib.metadata.version

    def installed(name):
        if name != "safetensors":
            return real(name)
        if version is None:
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return version

    sound.setattr(doctor.importlib.metadata, "version", installed)
    found = problems(examine())
    assert list(found) == ["safetensors"]
    assert found["safetensors"].state == state and "pip install 'safetensors" in found["safetensors"].remedy


def test_a_driver_that_torch_cannot_use_is_a_problem(sound):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        sound.setattr(torch.cuda, "is_available", lambda: False)
        sound.setattr(torch.backends.mps, "is_available", lambda: False)
    sound.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert "CUDA build" in problems(examine())["device"].remedy


def test_a_data_folder_that_cannot_be_made_is_a_problem(sound):
    sound.setattr(doctor.os, "access", lambda path, mode: not mode & os.W_OK)
    assert "DDPM_PATH_DATA" in problems(examine())["data"].remedy


@pytest.mark.parametrize(("command", "words"), [(None, "install ipykernel"), ("/elsewhere/python", "sys-prefix")])
def test_a_kernel_of_another_python_or_none_is_a_problem(sound, command, words):
    def spec(self, name):
        if command is None:
            raise NoSuchKernel(name)
        return SimpleNamespace(argv=[command])

    sound.setattr(doctor.KernelSpecManager, "get_kernel_spec", spec)
    assert words in problems(examine())["kernel"].remedy
    sound.setattr(doctor.KernelSpecManager, "get_kernel_spec", lambda self, name: SimpleNamespace(argv=["python"]))
    assert [f.state for f in examine() if f.subject == "kernel"] == [f"python3 runs {sys.executable}"]


def test_too_little_room_is_a_problem(sound):
    sound.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert "before training" in problems(examine())["disk"].remedy


def test_the_report_counts_and_marks():
    text = report([Finding("a", "fine"), Finding("bb", "broken", "mend it")])
    assert text == "ok      a   fine\nPROBLEM bb  broken\n            remedy: mend it\n\n1 problem"
