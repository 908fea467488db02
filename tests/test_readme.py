"""README's promises: its Python blocks run in order as printed, its commands exist and succeed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def commands() -> list[str]:
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    return [line.split("#")[0].strip() for line in lines if "-m ddpm_path" in line]


@pytest.mark.parametrize("command", commands())
def test_commands_succeed(command, tmp_path):
    words = shlex.split(command)
    words = words[words.index("ddpm_path") + 1 :]
    if words[0] in ("train", "run", "evaluate", "diagnose"):  # minutes long, or of a training: only that it parses
        words.append("--help")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "ddpm_path", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "--out" in words and words[0] == "sample":
        assert (tmp_path / words[words.index("--out") + 1]).stat().st_size > 1000


def test_the_make_targets_it_names_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    named = set(
        re.findall(r"^make ([a-z]+)\b", "".join(text for language, text in BLOCKS if language == "sh"), re.MULTILINE)
    )
    assert named and named <= targets
