"""The equation ledger: which function is which equation, what tests it, where it is taught. Writes ledger.md here.

    python tests/ledger.py

An equation (also an algorithm, a relation, a proposition) is one that a docstring of the mathematics cites, as
`[Ho 2020, eq. 6-7]`; without an author it is of the paper that the module's docstring cites first. Its tests are those
that cite it, by name (`test_ho2020_eq6_eq7_...`) or docstring, and of the others those that name the function. Its
cells are those that cite the number in a notebook that names the function, else the first that names it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LEDGER = Path(__file__).with_suffix(".md")
KINDS = "eq|alg|rel|prop|thm"
NUMBERS = re.compile(rf"\b({KINDS})\. ((?:\d+(?:-\d+)?)(?:, \d+(?:-\d+)?)*)")
PAPER = re.compile(r"([A-Z][\w-]*)[^\[\];,]*? (\d{4})")


class Equation(NamedTuple):
    """Sorted as they are printed: a paper's first author and year, what is numbered, its number."""

    paper: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.paper}, {self.kind}. {self.number}"

    @property
    def key(self) -> tuple[str, str, int]:
        """What a test's name says of it."""
        return re.sub(r"[^a-z0-9]", "", self.paper.lower()), self.kind, self.number


class Row(NamedTuple):
    """One equation in one function, the tests that cite it, those that name the function, and cells."""

    equation: Equation
    function: str
    citing: list[str]
    naming: list[str]
    cells: list[str]


def citations(text: str, paper: str) -> Iterator[Equation]:
    """Every equation that stands in brackets, of `paper` where none is named."""
    for bracket in re.findall(r"\[([^\[\]]*)\]", text):
        here = paper
        for part in bracket.split(";"):
            named = PAPER.search(part)
            here = " ".join(named.groups()) if named else here
            for kind, numbers in NUMBERS.findall(part):
                for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
                    yield from (Equation(here, kind, n) for n in range(int(first), int(last or first) + 1))


def named(name: str) -> Iterator[tuple[str, str, int]]:
    """The equations that a test's name cites: author and year, then eq6_eq7 or eq9_11_12."""
    match = re.match(r"test_([a-z]+\d{4})_", name)
    for kind, numbers in re.findall(rf"_({KINDS})(\d+(?:_\d+)*)(?=_|$)", name):
        yield from ((match[1] if match else "", kind, int(number)) for number in numbers.split("_"))


def cited() -> Iterator[tuple[Equation, str]]:
    """The equations of the mathematics, and the functions whose docstrings cite them."""
    for path in sorted((ROOT / "ddpm_path").glob("*.py")):
        tree = ast.parse(path.read_text())
        paper = PAPER.search("".join(re.findall(r"\[[^\]]*\]", ast.get_docstring(tree) or "")))
        for name, text in _docstrings(tree, ""):
            for equation in dict.fromkeys(citations(text, " ".join(paper.groups()) if paper else "")):
                yield equation, f"{path.stem}.{name}"


def _docstrings(tree: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, ast.get_docstring(node) or ""
            yield from _docstrings(node, f"{prefix}{node.name}.")


def rows() -> list[Row]:
    """The ledger."""
    tests = {}  # file::name to its text and what it cites
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        source = path.read_text()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                text = "\n".join(source.splitlines()[start - 1 : node.end_lineno])
                own = {equation.key for equation in citations(ast.get_docstring(node) or "", "")}
                tests[f"{path.name}::{node.name}"] = (text, own | set(named(node.name)))
    notebooks = {
        path.stem[:2]: re.split(r"^# %%", path.read_text(), flags=re.MULTILINE)
        for path in sorted((ROOT / "notebooks" / "scripts").glob("*.py"))
    }
    found = []
    for equation, function in sorted(cited()):
        name = re.compile(rf"\b{function.split('.')[-1]}\b")
        citing = [test for test, (_, own) in tests.items() if equation.key in own]
        naming = [test for test, (text, _) in tests.items() if name.search(text)]
        cells = []
        for number, parts in notebooks.items():
            naming_here = [i for i, part in enumerate(parts) if name.search(_code(part))]
            number_here = [i for i, part in enumerate(parts) if any(e[1:] == equation[1:] for e in citations(part, ""))]
            if naming_here:
                cells += [f"{number}:{i}" for i in number_here or naming_here[:1]]
        found.append(Row(equation, function, citing, naming, cells))
    return found


def _code(cell: str) -> str:
    return "\n".join(line for line in cell.splitlines() if not line.startswith("#"))


def table() -> str:
    """The ledger as Markdown, its tests the first two."""
    lines = [
        "# The equations, where they are computed, tested and taught", "",
        "Written by `python tests/ledger.py`, which tells how. *Italic* tests name the function without citing the",
        "equation. Cells are `notebook:cell`, counted from 1.", "",
        "| equation | function | tests | cells |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in rows():
        others = [test for test in row.naming if test not in row.citing]
        every = [*map("`{}`".format, row.citing), *map("*`{}`*".format, others)]
        more = ", ..." if len(every) > 2 else ""
        lines.append(f"| {row.equation} | `{row.function}` | {', '.join(every[:2])}{more} | {' '.join(row.cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    LEDGER.write_text(table())
