"""Runs tests on the package with a mistake planted in it: what the museum and the mutants share. Not on Windows.

A module's text is replaced while it is imported, in a forked child: no file is touched, and torch is imported once
for all children.
"""

import gc
import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class Outcome(NamedTuple):
    """How one test went: passed or failed, the exception's type if it failed, and its seconds of one core."""

    test: str
    passed: bool
    error: str
    seconds: float


def preload(*modules: str) -> None:
    """Import torch and these modules, which all children need and no mistake can be in."""
    import torch

    torch.set_num_threads(1)
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # a child's collector leaves all of it alone


def run(tests: Sequence[str], planted: Mapping[str, str], limit: int = 60) -> list[Outcome] | None:
    """Run tests up to the first that fails, on the package with some modules' texts (dotted name: text) replaced.

    None if that takes more than `limit` seconds of one core, or the child dies of it.
    """
    said = in_child(lambda: _run_here(tests, planted), limit)
    return None if said is None else [Outcome(*outcome) for outcome in said]


def in_child(answer: Callable[[], Any], limit: int) -> Any:
    """What a function that imports the package afresh and runs pytest answers, or None after `limit` seconds."""
    assert not [name for name in sys.modules if name.split(".")[0] == "ddpm_path"], "a child imports it afresh"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.chdir(ROOT)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others' plugins take longer than a test
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            with os.fdopen(writing, "w") as pipe:
                json.dump(answer(), pipe)
        finally:
            os._exit(0)  # whatever happened, it must not run its parent's tests
    os.close(writing)
    with os.fdopen(reading) as pipe:
        in_time, _, _ = select.select([pipe], [], [], 20 * limit)  # a child that waits uses no core
        if not in_time:
            os.kill(child, signal.SIGKILL)
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None


def _run_here(tests: Sequence[str], planted: Mapping[str, str]) -> list[Outcome]:
    sys.meta_path.insert(0, _Planted(planted))
    recorder = _Recorder()
    pytest.main(["-x", "-p", "no:cacheprovider", "-m", "not gpu", *tests], plugins=[recorder])
    return recorder.outcomes


class _Recorder:
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.before = time.process_time()

    def pytest_runtest_logstart(self) -> None:
        self.before = time.process_time()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
        report = yield
        if report.when == "call" or report.failed:
            error = call.excinfo.typename if call.excinfo is not None else ""
            self.outcomes.append(Outcome(item.nodeid, report.passed, error, time.process_time() - self.before))
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes.append(Outcome(report.nodeid, False, "import", 0.0))


class _Planted(SourceFileLoader):
    """Finds and loads the modules whose text is replaced."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def find_spec(self, name: str, path: Iterable[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name not in self.texts:
            return None
        loader = _Planted(self.texts)
        loader.name, loader.path = name, str(file_of(name))
        return importlib.util.spec_from_file_location(name, loader.path, loader=loader)

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.texts[fullname], str(file_of(fullname)), "exec")


def file_of(module: str) -> Path:
    """Where the module with this dotted name stands in the working tree."""
    return ROOT / Path(*module.split(".")).with_suffix(".py")
