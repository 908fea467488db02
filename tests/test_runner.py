"""The runner executes notebooks in real kernels, and tells the truth about how that went."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from tqdm import tqdm

from ddpm_path.lab import claims, record, runner
from ddpm_path.lab.record import Claim, State

Capture = pytest.CaptureFixture[str]
FIGURE = """import base64
from IPython.display import Image, display
from matplotlib.figure import Figure
import io
buffer = io.BytesIO()
Figure(figsize=(1, 1)).savefig(buffer, format="png")
display(Image(buffer.getvalue()), metadata={"image/png": {"alt": 'A "blank" <square>'}})"""
MEASURE = "from ddpm_path.lab.claims import measure\nmeasure({!r}, {}, {})"


def write(folder: Path, name: str, *cells: str) -> None:
    """A notebook of code cells, those that start with # <space> being Markdown."""
    make = nbformat.v4
    notebook = make.new_notebook(
        cells=[make.new_markdown_cell(c) if c.startswith("# ") else make.new_code_cell(c) for c in cells]
    )
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.mark.slow
def test_run_goes_on_past_a_failure_and_reports_it_all(tmp_path: Path, capsys: Capture) -> None:
    notebooks, out = tmp_path / "notebooks", tmp_path / "build" / "path"
    notebooks.mkdir()
    write(notebooks, "02_early_diffusion", "# Early", "x = 1\n", "", "def f():\n    return x / 0\n\nf()", "never = 1")
    write(
        notebooks,
        "03_ddpm_forward",
        "# The *forward* process",
        "from pathlib import Path\nprint(Path('data.txt').read_text())",
        FIGURE,
        MEASURE.format("ddpm-prior", 0.2, 0.01),
    )
    (notebooks / "data.txt").write_text("beside the notebook")
    (out / "claims").mkdir(parents=True)
    (out / "claims" / "ddpm-digits.json").write_text("stale")

    assert runner.run([], notebooks, out) == 1

    text = capsys.readouterr().out
    assert "[1/2] 02_early_diffusion" in text
    assert re.search(r"cell  1/3  from pathlib import Path +\d+\.\d s\n", text)
    assert "FAILED: 02_early_diffusion, cell [2] def f():\n  ZeroDivisionError: division by zero" in text
    assert "return x / 0" in text, "the traceback is shown"
    assert "\x1b" not in text
    assert re.search(r"ddpm-prior +\+0\.2 \+- 0\.01 +holds +holds +as recorded", text)
    assert "1 of 2 notebooks ran through" in text

    for name in ("02_early_diffusion", "03_ddpm_forward"):
        assert (out / f"{name}.html").exists()
    failed = nbformat.read(out / "02_early_diffusion.ipynb", 4)
    assert [cell.get("execution_count") for cell in failed.cells] == [None, 1, None, 2, None]
    ran = nbformat.read(out / "03_ddpm_forward.ipynb", 4)
    assert "beside the notebook" in ran.cells[1].outputs[0].text, "notebooks run in their own folder"

    index = (out / "index.html").read_text()
    assert (out / "03_ddpm_forward.png").read_bytes().startswith(b"\x89PNG")
    assert 'src="03_ddpm_forward.png" alt="A &quot;blank&quot; &lt;square&gt;"' in index
    assert "The forward process" in index
    assert "Failed at cell [2] def f():: ZeroDivisionError" in index
    assert not (out / "02_early_diffusion.png").exists()

    page = (out / "03_ddpm_forward.html").read_text()
    assert "A &quot;blank&quot; &lt;square&gt;" in page or """'A "blank" &lt;square&gt;'""" in page
    loaded = Loads()
    loaded.feed(page)
    assert not [url for url in loaded.urls if url.startswith("http")], "the page works offline"


class Loads(HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"script": "src", "img": "src", "link": "href", "iframe": "src"}.get(tag)
        self.urls += [value for name, value in attrs if name == wanted and value]


@pytest.mark.slow
def test_contradicted_and_missing_measurements_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    write(tmp_path, "03_ddpm_forward", MEASURE.format("ddpm-prior", -0.2, 0.01))
    assert runner.run(["03"], tmp_path, tmp_path / "out") == 1
    assert "CONTRADICTED: ddpm-prior, a claim of 03_ddpm_forward" in capsys.readouterr().out

    # The same number under another record: the kernel keeps the package's own table, the verdict is made here.
    negative = Claim("ddpm-prior", "03_ddpm_forward", "A claim", "A protocol", State.FAILS, "So it is")
    monkeypatch.setattr(record, "CLAIMS", (negative,))
    assert runner.run(["03"], tmp_path, tmp_path / "out") == 0, "an honest negative repeats"

    unmeasured = Claim("other", "03_ddpm_forward", "A claim", "A protocol", State.HOLDS, "So it is")
    monkeypatch.setattr(record, "CLAIMS", (negative, unmeasured))
    capsys.readouterr()
    assert runner.run(["03"], tmp_path, tmp_path / "out") == 1
    assert "NOT MEASURED: other, a claim of 03_ddpm_forward" in capsys.readouterr().out


@pytest.mark.slow
def test_dead_kernels_slow_cells_and_broken_files_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    write(tmp_path, "20_dead", "import os", "os._exit(1)")
    write(tmp_path, "21_slow", "import time; time.sleep(60)")
    (tmp_path / "22_broken.ipynb").write_text("{")
    monkeypatch.setattr(runner, "CELL_TIMEOUT", 2)
    assert runner.run([], tmp_path, tmp_path / "out") == 1
    text = capsys.readouterr().out
    assert "FAILED: 20_dead, cell [2] os._exit(1)\n  the kernel died" in text
    assert (
        "FAILED: 21_slow, cell [1] import time; time.sleep(60)\n  TimeoutError: the cell ran for more than 2 s" in text
    )
    assert "FAILED: 22_broken, the start\n  not a notebook" in text
    assert "0 of 3 notebooks ran through" in text


def test_select_by_number_name_and_path_order(tmp_path: Path) -> None:
    for name in ("03_ddpm_forward", "04_ddpm_reverse", "11_ddim"):
        (tmp_path / f"{name}.ipynb").touch()
    (tmp_path / "scratch.ipynb").touch()
    stems = [path.stem for path in runner.select([], tmp_path)]
    assert stems == ["03_ddpm_forward", "04_ddpm_reverse", "11_ddim"]
    chosen = runner.select(["11", "3", "03", "11_ddim.ipynb"], tmp_path)
    assert [path.stem for path in chosen] == ["03_ddpm_forward", "11_ddim"]
    with pytest.raises(ValueError, match=r"'04_ddpm_revers': did you mean '04_ddpm_reverse'\? There are 03_ddpm_f"):
        runner.select(["03", "04_ddpm_revers"], tmp_path)
    with pytest.raises(ValueError, match="15_pndm is still to be written; there are 03_ddpm_forward"):
        runner.select(["15"], tmp_path)
    with pytest.raises(ValueError, match="01_vae is still to be written"):
        runner.select(["1"], tmp_path)
    with pytest.raises(ValueError, match="no notebooks in"):
        runner.select([], tmp_path / "nowhere")


def test_long_tracebacks_keep_both_ends() -> None:
    text = runner._tail("\n".join(f"\x1b[31mline {i}\x1b[0m" for i in range(100)))
    assert text.startswith("line 0\n")
    assert text.endswith("\nline 99")
    assert len(text.splitlines()) == 25
    assert claims.FOLDER == "DDPM_PATH_CLAIMS"


def test_finished_bars_leave_a_notebook_and_all_else_stays() -> None:
    def cell(text: str) -> nbformat.NotebookNode:
        return nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", name="stderr", text=text)])

    written = io.StringIO()
    for _ in tqdm(range(3), "outer", file=written):
        for _ in tqdm(range(2), "inner", file=written, leave=None):
            pass
    bars = cell(written.getvalue())
    assert "inner" in written.getvalue() and "\x1b" in written.getvalue()
    runner._drop_progress(bars)
    assert not bars.outputs
    warned = "a bar: 50%|#  | 1/2 [00:00<00:00, 9.00it/s]x.py:1: UserWarning: shapes [1, 2]"
    mixed = cell(f"{warned}\na bar: 100%|###| 2/2 [00:00<00:00, 9.00it/s]\n")
    plain = cell("\x1b[31mUserWarning\x1b[0m\n\n  at 50%\n")
    mixed.outputs.append(nbformat.v4.new_output("stream", name="stdout", text="100%|###| 2/2 [00:00<00:00]\n"))
    runner._drop_progress(mixed)
    assert [output.text for output in mixed.outputs] == [warned, "100%|###| 2/2 [00:00<00:00]\n"]
    runner._drop_progress(plain)
    assert plain.outputs[0].text == "\x1b[31mUserWarning\x1b[0m\n\n  at 50%\n"
