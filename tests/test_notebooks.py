"""The committed notebooks: as their text twins say, executed, small, described, and of a readable size."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from ddpm_path.lab import exercises, pages

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PRIVATE = re.compile(r"/(?:work|root|tmp|home|Users)/|[A-Z]:\\\\Users")
NOT_PROSE = (
    r"\$\$.*?\$\$|\$[^$]*\$",  # formulas
    r"`[^`]*`",  # code
    r"^\[[^\]]*\]:.*$|(?<=\])\([^)]*\)|(?<=\])\[[^\]]*\]",  # addresses
)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path):
    return nbformat.read(path, as_version=4)


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def words(markdown: str) -> int:
    for pattern in NOT_PROSE:
        markdown = re.sub(pattern, " ", markdown, flags=re.DOTALL if pattern == NOT_PROSE[0] else re.MULTILINE)
    return len(re.findall(r"[^\W\d_][\w'’-]*", markdown))


def code_lines(source: str) -> int:
    return sum(1 for line in source.splitlines() if line.strip() and not line.strip().startswith("#"))


def test_every_twin_has_a_notebook():
    assert PATHS, "no notebooks at all"
    assert {path.stem for path in (NOTEBOOKS / "scripts").glob("*.py")} == {path.stem for path in PATHS}


def test_twin_and_notebook_agree(path, notebook):
    twin = jupytext.read(NOTEBOOKS / "scripts" / f"{path.stem}.py")
    cells = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (twin, notebook)]
    assert cells[0] == cells[1], f"execute the twin again: notebooks/scripts/{path.stem}.py"
    assert twin.metadata["kernelspec"]["name"] == notebook.metadata["kernelspec"]["name"] == "python3"


def test_executed_in_order_without_errors_or_warnings(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert outputs(notebook)
    for output in outputs(notebook):
        assert output.output_type != "error", output.get("evalue")
        assert output.get("name") != "stderr", output.text


def test_small_and_without_widgets_or_private_paths(path, notebook):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert "widgets" not in notebook.metadata
    assert not PRIVATE.search(re.sub(r'"image/png": "[^"]*"', "", text))


def test_size_of_cells_code_and_prose(path, notebook):
    prose = sum(words(cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    lines = sum(code_lines(cell.source) for cell in notebook.cells if cell.cell_type == "code")
    for count, least, most in ((len(notebook.cells), 15, 25), (lines, 60, 120), (prose, 300, 600)):
        assert count <= most, (len(notebook.cells), lines, prose)
        assert count >= least or path.stem == "00_roadmap", (len(notebook.cells), lines, prose)


def test_pages_understand_every_formula(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            formulas = [pages.mathml(match) for match in pages.FORMULA.finditer(cell.source) if not match["code"]]
            assert not [formula for formula in formulas if "\\" in formula or not formula.startswith("<math")]


def test_every_figure_has_alt_text(notebook):
    for output in outputs(notebook):
        data = output.get("data", {})
        if any(kind.startswith("image/") for kind in data):
            alt = output.metadata.get("image/png", {}).get("alt", "")
            assert len(alt.split()) >= 5, f"a figure without a description: {alt!r}"
        for image in re.findall(r"<img\b[^>]*>", "".join(data.get("text/html", ""))):
            assert re.search(r"\balt=.{20}", image), "an <img> without a description"


def test_exercises_exist_and_are_left_unanswered(notebook):
    known = {name for name in vars(exercises) if isinstance(getattr(exercises, name), exercises.Exercise)}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for name in re.findall(r"\bcheck\(\s*([\w.]+)", cell.source):
                exercise = name.split(".")[-1]
                assert exercise in known, f"no exercise {exercise}; there are {sorted(known)}"
                text = "".join(output.get("text", "") for output in cell.outputs)
                assert f"{getattr(exercises, exercise).name}: not answered yet" in text


def test_roadmap_links_every_notebook():
    """Execute 00_roadmap again when a notebook is added."""
    notebook = nbformat.read(NOTEBOOKS / "00_roadmap.ipynb", as_version=4)
    table = "".join("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs(notebook))
    for path in PATHS:
        assert f"({path.name})" in table or path.stem == "00_roadmap", f"{path.name}: execute 00_roadmap again"


def test_count_of_words():
    text = "# Two words\n\n$$a\nb$$ [three](https://x.y/z) `code` $x$ don't-split 5\n\n[ref]: https://a.b"
    assert words(text) == 4
