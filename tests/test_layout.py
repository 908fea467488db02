"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_path

PACKAGE = Path(ddpm_path.__file__).parent
MATHEMATICS = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__main__.py")  # the runner's door is lab's


def imports(path):
    """Every module that a file names in an import, wherever it stands, as an absolute dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["ddpm_path" if node.level else "", node.module or ""]))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def public(tree, prefix=""):
    """Functions, classes and their methods without a leading underscore, as (name, node)."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


def test_there_is_mathematics_to_check():
    assert {"schedule.py", "gaussian.py", "exact.py", "samplers.py"} <= {path.name for path in MATHEMATICS}


@pytest.mark.parametrize("path", MATHEMATICS, ids=lambda path: path.name)
def test_mathematics_never_imports_the_lab(path):
    assert not [name for name in imports(path) if name.startswith("ddpm_path.lab")]


@pytest.mark.parametrize("path", MATHEMATICS, ids=lambda path: path.name)
def test_everything_public_in_the_mathematics_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert not [name for name, node in public(tree) if not ast.get_docstring(node)]


def test_importing_costs_under_a_third_of_a_second_beyond_torch():
    """All of the mathematics, best of three: torch once, then three children that each import afresh, einops too."""
    modules = ["ddpm_path", *(f"ddpm_path.{path.stem}" for path in MATHEMATICS if path.stem != "__init__")]
    code = f"""
import importlib, os, time
import torch
for _ in range(3):
    child = os.fork()
    if child == 0:
        start = time.perf_counter()
        for name in {modules!r}:
            importlib.import_module(name)
        print(time.perf_counter() - start, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = [float(line) for line in done.stdout.split()]
    assert len(seconds) == 3 and min(seconds) <= 0.3
