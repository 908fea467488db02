"""What this machine has, and each thing that would go wrong here, with its remedy."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from packaging.requirements import Requirement

from ddpm_path.lab import datasets, roadmap, zoo

ROOM = 200 * 2**20  # bytes free that a training wants


class Finding(NamedTuple):
    """One line of the report; a `remedy` makes it a problem."""

    subject: str
    state: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Everything that is looked at, in order: versions, processor, data, shipped models, notebooks, room on disk."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (_versions, _processor, _data, _models, _notebooks, _disk)
    return [finding for part in parts for finding in part()]


def report(findings: list[Finding]) -> str:
    """The findings as text, problems marked, each with its remedy on the next line, and their number at the end."""
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'PROBLEM' if finding.remedy else 'ok':8}{finding.subject:{width}}  {finding.state}")
        if finding.remedy:
            lines.append(" " * (10 + width) + f"remedy: {finding.remedy}")
    problems = sum(bool(finding.remedy) for finding in findings)
    lines.append(f"\n{problems or 'no'} problem{'' if problems == 1 else 's'}")
    return "\n".join(lines)


def _versions() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 10)
    yield Finding("python", f"{version}, {sys.executable}", "install Python 3.10 or newer" if old else "")
    try:
        wanted = importlib.metadata.requires("ddpm-path") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("ddpm-path", "imported from a folder, not installed", "python -m pip install --editable .")
        return
    yield Finding("ddpm-path", importlib.metadata.version("ddpm-path"))
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "missing", f"python -m pip install '{text}'")
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        yield Finding(requirement.name, found, "" if fits else f"python -m pip install '{text}'")


def _processor() -> Iterator[Finding]:
    cores, threads = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch.get_num_threads(),
    )
    more = f"more threads than cores slow each other: set OMP_NUM_THREADS={cores}" if threads > cores else ""
    yield Finding("threads", f"{threads} on {cores} cores", more)
    if torch.cuda.is_available():
        yield Finding("device", torch.cuda.get_device_name())
    elif torch.backends.mps.is_available():
        yield Finding("device", "Apple's MPS")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "device",
            f"CPU, though there is an NVIDIA driver: torch {torch.__version__} cannot use it",
            "install a CUDA build of torch that fits the driver, as torch's site tells",
        )
    else:
        yield Finding("device", "CPU: all of the path is made for it")


def _data() -> Iterator[Finding]:
    folder = datasets.data_folder()
    have = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    stuck = not have and not os.access(parent, os.W_OK)
    remedy = "set DDPM_PATH_DATA to a folder that can be written to" if stuck else ""
    yield Finding("data", f"{folder}: {', '.join(have) or 'nothing yet; data sets are fetched when asked for'}", remedy)


def _models() -> Iterator[Finding]:
    for name in zoo.names():
        try:
            zoo.verify(name)
        except (ValueError, OSError) as error:
            yield Finding(
                f"model {name}", str(error), "git checkout data/zoo in a clone, else install the package anew"
            )
        else:
            yield Finding(f"model {name}", "as its card says")


def _notebooks() -> Iterator[Finding]:
    try:
        yield Finding("notebooks", str(roadmap.notebooks_folder()))
    except FileNotFoundError as error:
        yield Finding("notebooks", "none here", str(error))
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield Finding("kernel", "Jupyter finds no kernel python3", "python -m pip install ipykernel")
        return
    # Jupyter itself puts its own interpreter in the place of a bare `python`.
    other = Path(command).name != command and Path(command).resolve() != Path(sys.executable).resolve()
    remedy = "python -m ipykernel install --sys-prefix makes this Python the kernel" if other else ""
    yield Finding("kernel", f"python3 runs {command if other else sys.executable}", remedy)


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    yield Finding("disk", f"{free / 2**30:.1f} GiB free here", "" if free > ROOM else "free 200 MB before training")
