"""Settings of the whole run."""

from collections.abc import Generator

import pytest
import torch

torch.set_num_threads(1)  # tests that run side by side do not slow each other


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test fails, unless it waits for a GPU: what is not run is not known."""
    report = yield
    if report.skipped and "gpu" not in item.keywords:
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}; only tests marked gpu may be"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself."""
    report = yield
    if report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}; no file may be"
    return report
