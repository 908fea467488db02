"""Pages of executed notebooks: figures described, formulas legible, offline, and a front page that tells the truth."""

import base64
import html
import re
from html.parser import HTMLParser

import nbformat
import pytest

from ddpm_path.lab import pages, record
from ddpm_path.lab.claims import Measurement
from ddpm_path.lab.pages import Failure, Ran
from ddpm_path.lab.record import Claim, State

PNG = base64.b64encode(b"\x89PNG not really").decode()


def output(data: dict[str, str], described: dict[str, object] | None = None) -> nbformat.NotebookNode:
    """A notebook whose only cell shows this."""
    make = nbformat.v4
    shown = make.new_output("display_data", data=data, metadata=described or {})
    return make.new_notebook(cells=[make.new_markdown_cell("# A"), make.new_code_cell("1", outputs=[shown])])


def test_first_figure_and_its_alt_text() -> None:
    png = {"image/png": PNG}
    described = pages.first_figure(output(png, {"image/png": {"alt": "Noise"}}))
    assert described is not None
    assert described == (b"\x89PNG not really", "Noise")
    plain = pages.first_figure(output(png | {"text/plain": "Ten digits"}))
    assert plain is not None
    assert plain.alt == "Ten digits"
    bare = pages.first_figure(output(png | {"text/plain": "<Figure size 640x480 with 1 Axes>"}))
    assert bare is not None
    assert bare.alt == ""
    in_html = pages.first_figure(output({"text/html": f"<img alt='a &lt; b' src='data:image/png;base64,{PNG}'>"}))
    assert in_html == (b"\x89PNG not really", "a < b")
    assert pages.first_figure(output({"text/html": "<b>no figure</b>", "text/plain": "no"})) is None


def test_page_shows_alt_text_and_no_widgets() -> None:
    page = pages.page(output({"image/png": PNG}, {"image/png": {"alt": 'A "quoted" <alt>'}}), "A title")
    alts: list[str | None] = []

    class Images(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            alts.extend([dict(attrs).get("alt")] if tag == "img" else [])

    Images().feed(page)
    assert alts == ['A "quoted" <alt>']
    assert "<title>A title</title>" in page
    assert "require.min.js" not in page
    assert "mermaid" not in page.split("</head>")[0].rpartition("</style>")[2]


def test_pages_link_to_pages() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("[next](04_ddpm_reverse.ipynb)")])
    page = pages.page(notebook, "A title")
    assert 'href="04_ddpm_reverse.html"' in page
    assert ".ipynb" not in page


def test_index_escapes_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    known = (
        Claim("good", "03_ddpm_forward", "a < b", "", State.HOLDS, ""),
        Claim("bad", "03_ddpm_forward", "c", "", State.FAILS, ""),
        Claim("negative", "03_ddpm_forward", "d", "", State.FAILS, ""),
    )
    monkeypatch.setattr(record, "CLAIMS", known)
    measured = {
        "good": Measurement(1.0, 0.1),
        "bad": Measurement(1.0, 0.1, "n > 3"),
        "negative": Measurement(-1.0, 0.1),
    }
    failure = Failure(2, "x < y", "NameError: <x>", "")
    index = pages.index([Ran("03_ddpm_forward", "T & U", 130.0, None, failure)], measured)
    assert '<a href="03_ddpm_forward.html">T &amp; U</a>' in index
    assert 'a &lt; b: <strong class="good">holds</strong>' in index
    assert 'c: <strong class="bad">holds</strong> <small>+1 ± 0.1, CONTRADICTED, n &gt; 3</small>' in index
    assert 'd: <strong class="open">does not hold at this scale</strong>' in index
    assert "cell [2] x &lt; y: NameError: &lt;x&gt;" in index
    assert "2 min 10 s" in index
    assert "http" not in index, "the index works offline"


def test_formulas_become_mathml_and_code_stays() -> None:
    text = "`$PATH` costs $x_t$, and `` `$a$` `` too:\n\n$$\\frac{1}{2}$$"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    page = pages.page(notebook, "Formulas")
    assert "<code>$PATH</code>" in page and "<code>`$a$`</code>" in page
    assert "<msub><mi>x</mi><mi>t</mi></msub>" in page
    assert re.search(r'<math[^>]* display="block"[^>]*>.*<mfrac>', page)
    assert notebook.cells[0].source == text, "the executed copy keeps its LaTeX"


def formula(latex: str) -> str:
    """As a page has it."""
    found = pages.FORMULA.fullmatch(f"${latex}$")
    assert found
    return html.unescape(pages.mathml(found))


def test_relations_and_signs_are_told_from_letters_and_differences() -> None:
    assert "<mi>x</mi><mo>\N{TILDE OPERATOR}</mo><mi>y</mi>" in formula(r"x \sim y")
    assert formula(r"\lVert x \rVert^2").count('<mo stretchy="false">‖</mo>') == 2
    for sign in ("a = -b", "f(-1)", "[-1, 1]", "(1, -1)", r"x < -1", r"x > -1", r"x \ge -1", r"x \sim -y"):
        assert '<mo form="prefix">−</mo>' in formula(sign), sign
    for difference in ("a - b", "(a) - b", r"\lVert x \rVert - y"):
        assert "<mo>−</mo>" in formula(difference), difference


def test_functions_have_a_gap_where_print_has_one() -> None:
    before, after = 'lspace="0.17em"', 'rspace="0.17em"'
    for latex in (r"\log p", r"= \log p", r"\log \tilde\beta"):
        assert after in formula(latex) and before not in formula(latex), latex
    for latex in (r"v \log p", r"(1 - v) \log p", r"\nabla \log p", r"\nabla_x \log p"):
        assert before in formula(latex) and after in formula(latex), latex
    for latex in (r"\exp(x)", r"\exp\left(x\right)", r"\exp\!\left(x\right)"):
        assert after not in formula(latex), latex
