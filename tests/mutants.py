"""Mutation testing of the mathematics: does a test fail for every small change of the code? Writes mutants.md here.

    python tests/mutants.py               # a sample of all modules; goes on where it was stopped
    python tests/mutants.py gaussian      # of some modules
    python tests/mutants.py --again       # the survivors once more, after tests were added

A mutant is one operator, comparison, number, condition, keyword, decorator or function of mathematics exchanged; texts
of messages are left alone. It runs against its module's tests: those of the files that import the module which call
the function it stands in, the fastest and as many as take 10 s of one core. It is killed if one fails, or hangs.

Why no tool: mutmut leaves decorated functions and module constants alone, which here are the samplers and their
weights, and changes messages; cosmic-ray writes into the working tree and starts torch anew for each mutant. Neither
draws a sample by module.
"""

import argparse
import ast
import functools
import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import planted
import pytest
from tqdm import tqdm

SAMPLE, LEAST, SEED, SECONDS = 650, 30, 0, 10.0
BUILD, REPORT = planted.ROOT / "build" / "mutants", Path(__file__).with_suffix(".md")
MODULES = sorted(
    path.stem for path in (planted.ROOT / "ddpm_path").glob("*.py") if path.stem not in ("__init__", "__main__")
)
OPERATORS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*"),
    ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "//"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: (r"is\s+not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}  # fmt: skip
FUNCTIONS = {"sum": "mean", "mean": "sum", "sin": "cos", "cos": "sin", "sqrt": "abs", "square": "abs", "abs": "sqrt",
    "exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "min": "max", "max": "min", "maximum": "minimum",
    "minimum": "maximum", "any": "all", "all": "any", "zeros_like": "ones_like", "ones_like": "zeros_like",
    "sigmoid": "tanh", "silu": "relu", "relu": "silu", "softmax": "log_softmax", "log_softmax": "softmax",
    "amax": "amin", "floor": "ceil", "round": "floor", "cumprod": "cumsum", "cumsum": "cumprod",
}  # fmt: skip


class Mutant(NamedTuple):
    """`text`, put in the place of module[start:end] (bytes), inside a function; `key` names it wherever it moves."""

    module: str
    function: str
    start: int
    end: int
    text: str
    key: str


@functools.cache
def mutants(module: str) -> list[Mutant]:
    """All of one module that compile, in a random order that stays what it is while other functions change."""
    source = _source(module)
    found = []
    for function, owner, start, end, text in dict.fromkeys(_edits(source)):
        changed = source[:start] + text.encode() + source[end:]
        try:
            compile(changed, module, "exec", dont_inherit=True)
        except SyntaxError:
            continue
        key = hashlib.sha256(repr((SEED, module, function, owner, text)).encode()).hexdigest()[:16]
        found.append(Mutant(module, function, start, end, text, key))
    return sorted(found, key=lambda mutant: mutant.key)


def sample(names: Sequence[str]) -> list[Mutant]:
    """LEAST mutants of each module or all that it has, and of what is left in proportion, SAMPLE in all."""
    every = {name: mutants(name) for name in MODULES}
    spare = sum(max(0, len(found) - LEAST) for found in every.values())
    share = max(0.0, SAMPLE - sum(min(LEAST, len(found)) for found in every.values())) / spare
    return [m for name in names for m in every[name][: LEAST + -int(-share * max(0, len(every[name]) - LEAST) // 1)]]


def _source(module: str) -> bytes:
    return planted.file_of(f"ddpm_path.{module}").read_bytes()


def _edits(source: bytes) -> Iterator[tuple[str, tuple[str, int], int, int, str]]:
    """(function, where in which text, start, end, new text) of every change."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def begin(node: Any) -> int:
        return lines[node.lineno - 1] + node.col_offset

    def end(node: Any) -> int:
        return lines[node.end_lineno - 1] + node.end_col_offset

    def between(left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[tuple[int, int, str]]:
        if type(operator) in OPERATORS:
            old, new = OPERATORS[type(operator)]
            pattern = old if old[0].isalpha() else re.escape(old)
            sign = re.search(pattern.encode(), source[end(left) : begin(right)])
            assert sign
            yield end(left) + sign.start(), end(left) + sign.end(), new

    def here(node: Any) -> Iterator[tuple[int, int, str]]:
        match node:
            case ast.BinOp(left=left, op=operator, right=right) | ast.AugAssign(target=left, op=operator, value=right):
                yield from between(left, right, operator)
            case ast.Compare(left=first, ops=operators, comparators=rest):
                for left, operator, right in zip([first, *rest], operators, rest, strict=False):
                    yield from between(left, right, operator)
            case ast.BoolOp(op=operator, values=values):
                for left, right in itertools.pairwise(values):
                    yield from between(left, right, operator)
            case ast.UnaryOp(op=ast.USub() | ast.Not()):
                yield begin(node), begin(node.operand), ""
            case ast.Constant(value=bool(value)):
                yield begin(node), end(node), str(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield begin(node), end(node), repr(value + 1)
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield begin(test), end(test), f"not ({source[begin(test) : end(test)].decode()})"
            case ast.Call(func=(ast.Attribute(attr=name) | ast.Name(id=name)) as called) if name in FUNCTIONS:
                yield end(called) - len(name), end(called), FUNCTIONS[name]
            case ast.keyword() if node.arg is not None:
                comma = re.match(rb"\s*,?\s*", source[end(node) :])
                yield begin(node), end(node) + (comma.end() if comma else 0), ""
            case ast.FunctionDef() | ast.ClassDef():
                for decorator in node.decorator_list:
                    yield begin(decorator) - 1, end(decorator), ""
            case ast.Break() | ast.Continue():
                yield begin(node), end(node), "continue" if isinstance(node, ast.Break) else "break"

    def walk(node: ast.AST, function: str, outer: int, inside: str) -> Iterator[Any]:
        for start, stop, text in here(node):
            yield function, (source[outer:start].decode(), start - outer), start, stop, text
        for name, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or name in ("annotation", "returns"):
                    continue
                if isinstance(child, ast.Raise | ast.JoinedStr) or _is_warning(child):
                    continue  # texts of messages
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    kind = "<locals>." if isinstance(child, ast.FunctionDef) else ""
                    yield from walk(child, inside + child.name, begin(child), f"{inside}{child.name}.{kind}")
                else:
                    yield from walk(child, function, begin(child) if isinstance(node, ast.Module) else outer, inside)

    yield from walk(ast.parse(source), "", 0, "")


def _is_warning(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "warn"


class Tracer:
    """A pytest plugin: which functions of the package each test calls, and how long it takes."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.home = str(planted.ROOT / "ddpm_path")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):  # type: ignore[no-untyped-def]
        codes = {}

        def note(frame: FrameType, event: str, argument: object) -> None:
            if event == "call":
                codes[id(frame.f_code)] = frame.f_code

        start = time.process_time()
        sys.setprofile(note)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            called = {
                f"{Path(code.co_filename).stem}:{getattr(code, 'co_qualname', code.co_name)}"
                for code in codes.values()
                if str(Path(code.co_filename).parent) == self.home
            }
            self.found[item.nodeid] = [time.process_time() - start, sorted(called)]


def traced(path: str) -> dict[str, Any]:
    """What the tests of a file call and take, {test: [seconds, functions]}; kept until the file changes."""
    digest = hashlib.sha256((planted.ROOT / path).read_bytes()).hexdigest()[:16]
    kept = BUILD / f"{Path(path).stem}.json"
    if kept.exists() and json.loads(kept.read_text())["digest"] == digest:
        found: dict[str, Any] = json.loads(kept.read_text())["tests"]
        return found

    def run() -> dict[str, Any]:
        tracer = Tracer()
        assert pytest.main(["-p", "no:cacheprovider", path], plugins=[tracer]) in (0, 5)  # 5: all deselected
        return tracer.found

    found = planted.in_child(run, 900)
    if found is None:
        raise SystemExit(f"{path} does not pass as it is: mend that first")
    kept.write_text(json.dumps({"digest": digest, "tests": found}))
    return found


def tests_of(mutant: Mutant, tests: dict[str, Any]) -> list[str]:
    """The tests that call the mutant's function, SECONDS in all; of what no test calls, the module's.

    A constant of the module stands in the functions that name it. Tests of the file named after the module come first,
    then the fastest.
    """
    inside = {f"{mutant.module}:{function}" for function in ([mutant.function] if mutant.function else _users(mutant))}
    exact = [name for name, (_, called) in tests.items() if inside & set(called)]
    near = [name for name, (_, called) in tests.items() if any(c.startswith(f"{mutant.module}:") for c in called)]
    chosen, total = [], 0.0
    for name in sorted(exact or near, key=lambda name: (not _own(mutant, name), tests[name][0])):
        total += tests[name][0]
        if total > SECONDS and chosen:
            break
        chosen.append(name)
    return chosen


def _users(mutant: Mutant) -> list[str]:
    """The functions that name the constant which the mutant changes."""
    source = _source(mutant.module).decode()
    row = _source(mutant.module)[: mutant.start].count(b"\n") + 1
    body = ast.parse(source).body
    home = next(node for node in body if node.lineno <= row <= (node.end_lineno or 0))
    names = {node.id for node in ast.walk(home) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    return [f.name for f in functions if names & {n.id for n in ast.walk(f) if isinstance(n, ast.Name)}]


def _own(mutant: Mutant, test: str) -> bool:
    return test.startswith(f"tests/test_{mutant.module}.py")


def verdict(mutant: Mutant, tests: dict[str, Any]) -> str:
    """The test that kills a mutant, "time" if it hangs, "" if it survives."""
    source = _source(mutant.module)
    text = (source[: mutant.start] + mutant.text.encode() + source[mutant.end :]).decode()
    chosen = tests_of(mutant, tests)
    # The module's own file alone is collected sooner, and mostly enough.
    for part in ([t for t in chosen if _own(mutant, t)], [t for t in chosen if not _own(mutant, t)]):
        if part:
            outcomes = planted.run(part, {f"ddpm_path.{mutant.module}": text}, limit=60)
            if outcomes is None:
                return "time"
            killer = next((outcome.test for outcome in outcomes if not outcome.passed), "" if outcomes else "import")
            if killer:
                return killer
    return ""


def shown(mutant: Mutant) -> str:
    """A line of the report: where, and what became of the line."""
    source = _source(mutant.module)
    line = source[: mutant.start].count(b"\n") + 1
    first = source.rfind(b"\n", 0, mutant.start) + 1
    after = source.find(b"\n", mutant.end)
    old = source[first:after].decode()
    new = (source[first : mutant.start] + mutant.text.encode() + source[mutant.end : after]).decode()
    return f"`{mutant.module}.py:{line}` `{' '.join(old.split())}` → `{' '.join(new.split())}`".replace("|", "\\|")


def report(known: dict[str, str]) -> str:
    """The score by module, and the survivors."""
    drawn = {name: [m for m in sample([name]) if m.key in known] for name in MODULES}
    rows, lost = [], []
    for name, tried in drawn.items():
        alive = [m for m in tried if not known[m.key]]
        rows.append(f"| `{name}.py` | {len(mutants(name))} | {len(tried)} | {_share(tried, alive)} |")
        lost += sorted(alive, key=lambda m: m.start)
    tried = [m for found in drawn.values() for m in found]
    rows.append(f"| all | {sum(len(mutants(name)) for name in MODULES)} | {len(tried)} | {_share(tried, lost)} |")
    return "\n".join([
        "# Mutants", "",
        f"Written by `make mutants` (seed {SEED}). Killed: a test fails, or never ends. Survivors count whatever their",
        "explanation; some change nothing that can be observed.", "",
        "| module | mutants | drawn | killed |", "|---|---|---|---|", *rows, "",
        "## Survivors", "", *[f"- {shown(m)}" for m in lost], "",
    ])  # fmt: skip


def _share(tried: Sequence[Mutant], alive: Sequence[Mutant]) -> str:
    return f"{1 - len(alive) / len(tried):.1%}" if tried else "–"


def main() -> None:
    """Try what is not known yet, note it as it comes, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES, help="without .py; all if none is named")
    parser.add_argument("--again", action="store_true", help="try the survivors once more")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    notes = BUILD / "verdicts.jsonl"
    known: dict[str, str] = dict(map(json.loads, notes.read_text().splitlines())) if notes.exists() else {}
    planted.preload(
        "torch._dynamo", "einops", "scipy.integrate", "scipy.ndimage", "scipy.stats", "hypothesis.strategies",
        "matplotlib.figure", "diffusers.models", "diffusers.schedulers", "diffusers.schedulers.scheduling_ddpm",
    )  # fmt: skip
    files = sorted(path for path in Path(__file__).parent.glob("test_*.py"))
    for name in arguments.modules:
        wanted = [m for m in sample([name]) if m.key not in known or (arguments.again and not known[m.key])]
        if not wanted:
            continue
        own = [
            path
            for path in files
            if re.search(rf"ddpm_path\.{name} import|ddpm_path import.*\b{name}\b", path.read_text())
        ]
        tests: dict[str, Any] = {}
        for path in own:
            tests |= traced(str(path.relative_to(planted.ROOT)))
        for mutant in tqdm(wanted, desc=name):
            known[mutant.key] = verdict(mutant, tests)
            with notes.open("a") as file:
                file.write(json.dumps([mutant.key, known[mutant.key]]) + "\n")
    REPORT.write_text(report(known))
    print(report(known))


if __name__ == "__main__":
    main()
