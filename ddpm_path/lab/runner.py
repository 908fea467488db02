"""The reading path, executed: each notebook in a fresh Jupyter kernel, a page each, and the table of claims."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from ddpm_path.lab import claims, pages, roadmap
from ddpm_path.lab.claims import Measurement
from ddpm_path.lab.errors import unknown
from ddpm_path.lab.pages import Failure, Ran
from ddpm_path.lab.record import claims_of

CLAIMS = "claims"  # the folder of measurements
CELL_TIMEOUT = 1800  # seconds; no cell of the path should come near
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BAR = re.compile(r".*\d+%\|.*\| \d+/\d+ \[[^\]]*\] *")  # tqdm's


def run(names: Sequence[str], notebooks: Path, out: Path) -> int:
    """Execute notebooks in the path's order and answer the exit status: 0 if all is well, else 1.

    names: numbers (03) or whole names; none means all. Into `out` go the executed copies, an HTML page each,
    and index.html for this run. Status 1 means that a notebook failed, or that a claim of one that ran was not
    measured or contradicts its record; the end of the output says which. ValueError for names that do not exist.
    """
    done = execute(select(names, notebooks), out)
    measurements = claims.collect(out / CLAIMS)
    (out / "index.html").write_text(pages.index(done, measurements), encoding="utf-8")
    return _report(done, measurements, out)


def execute(paths: Sequence[Path], out: Path) -> list[Ran]:
    """Execute these notebooks; into `out` go their copies, a page each, and what they measure of their claims."""
    measured_in = out / CLAIMS
    measured_in.mkdir(parents=True, exist_ok=True)
    for stale in measured_in.glob("*.json"):
        stale.unlink()
    done = []
    for i, path in enumerate(paths):
        print(f"[{i + 1}/{len(paths)}] {path.stem}", flush=True)
        done.append(_run_one(path, out, measured_in))
    return done


def select(names: Sequence[str], notebooks: Path) -> list[Path]:
    """The notebooks of these numbers or names, in the path's order; all of them if there are no names."""
    found = {path.stem: path for path in sorted(notebooks.glob("[0-9]*.ipynb"))}
    if not found:
        raise ValueError(f"no notebooks in {notebooks}")
    chosen = set()
    for name in names:
        matches = [stem for stem in found if is_called(stem, name)]
        if not matches:
            coming = [notebook for stop in roadmap.STOPS for notebook in stop.notebooks if is_called(notebook, name)]
            if coming:
                raise ValueError(f"{coming[0]} is still to be written; there are {', '.join(found)}")
            raise unknown("notebook", name, found)
        chosen.update(matches)
    return [path for stem, path in found.items() if stem in chosen or not names]


def is_called(stem: str, name: str) -> bool:
    """Whether a name means this notebook: '03_ddpm_forward', with or without its suffix, '03' or '3'."""
    return stem == name.removesuffix(".ipynb") or (name.isdecimal() and stem.startswith(f"{int(name):02}_"))


def _run_one(path: Path, out: Path, measured_in: Path) -> Ran:
    """Execute one notebook and write its copy, its page and its first figure."""
    started = time.monotonic()
    try:
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except ValueError as error:
        print(f"  FAILED: {error}", flush=True)
        return Ran(path.stem, path.stem, 0.0, None, Failure(0, "", f"not a notebook: {error}", ""))
    failure = _execute(notebook, path.parent, measured_in)
    seconds = time.monotonic() - started
    figure = pages.first_figure(notebook)
    picture = out / f"{path.stem}.png"
    if figure:
        picture.write_bytes(figure.png)
    else:
        picture.unlink(missing_ok=True)
    title = pages.title_of(notebook) or path.stem
    nbformat.write(notebook, out / path.name)  # type: ignore[no-untyped-call]
    (out / f"{path.stem}.html").write_text(pages.page(notebook, title), encoding="utf-8")
    return Ran(path.stem, title, seconds, figure, failure)


def _execute(notebook: NotebookNode, folder: Path, measured_in: Path) -> Failure | None:
    """Run all code cells, in place, up to the first that fails."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    cells = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
    notebook.metadata.setdefault("language_info", {"name": "python"})
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns of the loopback connection that we want
        resources={"metadata": {"path": str(folder)}},
    )
    # Only ipykernel's own spec: an installed `python3` kernel may belong to another interpreter.
    specs = KernelSpecManager(kernel_dirs=[])
    client.km = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    environment = {
        **os.environ,
        claims.FOLDER: str(measured_in.resolve()),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    number, first = 0, ""
    try:
        with client.setup_kernel(env=environment):
            for number, (i, cell) in enumerate(cells, start=1):
                first = cell.source.strip().splitlines()[0]
                # The line is out before the cell runs, and its time after: readable while one waits and in a log.
                print(f"  cell {number:2}/{len(cells)}  {_short(first, 60):60}", end="", flush=True)
                started = time.monotonic()
                client.execute_cell(cell, i, execution_count=number)
                _drop_progress(cell)
                print(f" {time.monotonic() - started:6.1f} s", flush=True)
    except CellExecutionError as error:
        shown = "\n".join(line for output in cell.outputs for line in output.get("traceback", []))
        failure = Failure(number, first, _short(f"{error.ename}: {error.evalue}", 500), _tail(shown))
    except CellTimeoutError:
        failure = Failure(number, first, f"TimeoutError: the cell ran for more than {CELL_TIMEOUT} s", "")
    except DeadKernelError:
        failure = Failure(number, first, "the kernel died: out of memory, perhaps", "")
    else:
        return None
    print(f" FAILED\n  {failure.error}", flush=True)
    return failure


def _drop_progress(cell: NotebookNode) -> None:
    """Take tqdm's bars out of the outputs of a cell that ran through, in place: they told how far it was.

    What is written between them stays, without colours and blank lines.
    """
    for output in cell.outputs:
        if output.get("name") == "stderr" and "%|" in output.text:
            lines = re.split(r"[\r\n]+", ANSI.sub("", output.text))
            output.text = "\n".join(line for line in lines if line.strip() and not BAR.fullmatch(line))
    cell.outputs = [output for output in cell.outputs if output.get("text") != ""]


def _short(text: str, width: int) -> str:
    """Text on one line, in plain characters and cut to a width."""
    text = " ".join(ANSI.sub("", text).split())
    return text if len(text) <= width else text[: width - 3] + "..."


def _tail(traceback: str, lines: int = 24) -> str:
    """A traceback without colours: its beginning in the cell, and its end."""
    all_lines = ANSI.sub("", traceback).splitlines()
    if len(all_lines) <= lines:
        return "\n".join(all_lines)
    return "\n".join([*all_lines[: lines // 2], "  ...", *all_lines[-lines // 2 :]])


def _report(done: Sequence[Ran], measurements: Mapping[str, Measurement], out: Path) -> int:
    """Print how the run went, and answer its exit status."""
    of_this_run = [claim for ran in done for claim in claims_of(ran.name)]
    broken = [(ran.name, ran.failure) for ran in done if ran.failure]
    wrong = [claim for claim in of_this_run if claims.failed(claim, measurements.get(claim.key))]
    if of_this_run:
        print("\n" + claims.table(of_this_run, measurements))
    for name, failure in broken:
        print(f"\nFAILED: {name}, {pages.place(failure)}\n  {failure.error}")
        if failure.traceback:
            print("  " + failure.traceback.replace("\n", "\n  "))
    print()
    for claim in wrong:
        print(f"{claims.verdict(claim, measurements.get(claim.key))}: {claim.key}, a claim of {claim.notebook}")
    seconds = pages.duration(sum(ran.seconds for ran in done))
    print(
        f"{len(done) - len(broken)} of {len(done)} notebooks ran through, {seconds}: {out / 'index.html'}", flush=True
    )
    return 1 if broken or wrong else 0
