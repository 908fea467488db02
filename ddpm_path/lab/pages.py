"""Executed notebooks as pages that need nothing beside them and no network, and the front page of a run."""

import base64
import binascii
import copy
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import latex2mathml.converter
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from ddpm_path.lab import claims, roadmap
from ddpm_path.lab.claims import Measurement
from ddpm_path.lab.record import Claim, State, claims_of


class Failure(NamedTuple):
    """Where and how a notebook failed: the cell's number in brackets as Jupyter shows it, 0 if none ran."""

    cell: int
    line: str  # the cell's first line
    error: str
    traceback: str


class Figure(NamedTuple):
    """A PNG and what it shows in words."""

    png: bytes
    alt: str


class Ran(NamedTuple):
    """A notebook after its run."""

    name: str
    title: str
    seconds: float
    figure: Figure | None
    failure: Failure | None


def title_of(notebook: NotebookNode) -> str:
    """The first heading, without its mark-up."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := re.search(r"^# +(.+)$", cell.source, re.MULTILINE)):
            return re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).strip()
    return ""


def first_figure(notebook: NotebookNode) -> Figure | None:
    """The first PNG among the outputs, with its alt text."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            figure = _figure(output.get("data", {}), output.get("metadata", {}))
            if figure:
                return figure
    return None


def _figure(data: Mapping[str, Any], described: Mapping[str, Any]) -> Figure | None:
    """The PNG of one output, shown as such or as an <img> in HTML."""
    text = data.get("text/html", "")
    image = re.search(r"<img\b[^>]*>", text)
    source = re.search(r"data:image/png;base64,([^\"']+)", image[0]) if image else None
    try:
        if image and source:
            alt = re.search(r"\balt=([\"'])(.*?)\1", image[0], re.DOTALL)
            return Figure(base64.b64decode(source[1]), html.unescape(alt[2]) if alt else "")
        if "image/png" in data:
            return Figure(base64.b64decode(data["image/png"]), alt_text(data, described))
    except binascii.Error:  # not an image after all
        return None
    return None


def alt_text(data: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """An output's alt text: its metadata's `alt`, or its plain text unless that is only a figure's repr."""
    alt = described.get("image/png", {}).get("alt") or described.get("alt")
    plain = str(data.get("text/plain", ""))
    return str(alt) if alt else "" if plain.startswith("<") else plain


# Nothing from the network: formulas are MathML, widgets give way to the text that stands beside them.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_mathjax %}
<style>
math { font-size: 1.15em }
.jp-OutputArea-output pre { word-break: normal; overflow-wrap: anywhere }
.flat msub > :last-child, .flat msubsup > :nth-child(2) { position: relative; top: .15em }
</style>
<script>
// Without a font for formulas Chromium leaves subscripts on the line: a 0 and its subscript 0 then have one lower edge.
addEventListener("DOMContentLoaded", () => {
  document.body.insertAdjacentHTML("beforeend", "<math><msub><mn>0</mn><mn>0</mn></msub></math>");
  const [base, script] = [...document.body.lastChild.firstChild.children].map(x => x.getBoundingClientRect().bottom);
  document.body.classList.toggle("flat", script - base < 1);
  document.body.lastChild.remove();
});
</script>
{% endblock %}
{% block html_head_js_requirejs %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block data_png scoped %}
<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
alt="{{ output | alt_text | escape_html }}">
</div>
{% endblock %}
"""
FORMULA = re.compile(
    r"(?P<code>`+)(?!`).+?(?<!`)(?P=code)(?!`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL
)
MENDED = (  # what the converter gets wrong
    (r"<mi>&#x0007E;</mi>", r"<mo>&#x0223C;</mo>"),  # \sim is a relation
    (r"<mo>(?=&#x02016;)", r'<mo stretchy="false">'),  # a norm's bars are equally tall
    # A function has a gap before its argument unless that is in brackets, and one after a factor.
    (
        r"<mi>(log|exp|sin|cos)</mi>(?!(?:<mspace[^>]*>)?(?:<mrow>)?<mo[ >])",
        r'<mo lspace="0" rspace="0.17em">\1</mo>',
    ),
    (r'(</m(?:i|n|sub|sup)>|&#x0(?:2207|0029);</mo>)<mo lspace="0"(?= rspace="0.17em")', r'\1<mo lspace="0.17em"'),
    # A minus after a bracket or a relation is a sign: [-1, 1].
    (
        r"(<mo[^>]*>(?:\[|&#x0(?:0028|002C|003[CDE]|007B|2190|223C|226[45]);)</mo><mo)(?=>&#x02212;)",
        r'\1 form="prefix"',
    ),
)
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg", "text/plain"]


def page(notebook: NotebookNode, title: str) -> str:
    """A notebook as a page that needs nothing beside it, and no network."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(mathml, cell.source)
    describe = {"alt_text": lambda output: alt_text(output.data, output.metadata) or "A figure without a description"}
    exporter = HTMLExporter(raw_template=PAGE, filters=describe)  # type: ignore[no-untyped-call]
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
    return re.sub(r'href="(\w+)\.ipynb"', r'href="\1.html"', body)  # from page to page


def mathml(match: re.Match[str]) -> str:
    """A formula as MathML, which browsers draw by themselves; code as it is."""
    if match["code"]:
        return match[0]
    kind = "block" if match["block"] else "inline"
    formula = latex2mathml.converter.convert(match[kind], display=kind)
    for wrong, right in MENDED:
        formula = re.sub(wrong, right, formula)
    return str(formula)


STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5d6675; --paper: #fff; --card: #f5f6f8; --line: #d9dde3;
  --good: #146c36; --open: #80560a; --bad: #b3261e; --link: #0b57b0 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --soft: #a3abb8; --paper: #14171c; --card: #1e232b;
  --line: #353c47; --good: #6fce92; --open: #e3b55a; --bad: #ff8a80; --link: #8ab8ff } }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem;
  overflow-wrap: anywhere }
article img { width: 100%; height: auto; border-radius: .25rem; background: #fff }
h1, h2 { line-height: 1.25 } h2 { margin: .25rem 0 .5rem; font-size: 1.15rem }
a { color: var(--link) } ul { margin: .75rem 0 0; padding: 0; list-style: none } li { margin-top: .5rem }
p { margin: 0 } .lead { margin-bottom: 1.5rem } small, .time { color: var(--soft); font-size: .875rem }
.good { color: var(--good) } .open { color: var(--open) } .bad { color: var(--bad) }
"""


def index(done: Sequence[Ran], measurements: Mapping[str, Measurement]) -> str:
    """The front page of a run: each notebook with its stop, first figure, time and claims."""
    cards = "\n".join(_card(ran, measurements) for ran in done)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The reading path</title>
<style>{STYLE}</style>
</head>
<body>
<h1>The reading path</h1>
<p class="time lead">Notebooks run: {len(done)}, in {duration(sum(ran.seconds for ran in done))}. The number beside a
claim is a margin, positive where the claim is true, and its standard error.</p>
<main>
{cards}
</main>
</body>
</html>
"""


def _card(ran: Ran, measurements: Mapping[str, Measurement]) -> str:
    link = f'<a href="{ran.name}.html">'
    stops = " · ".join(stop.title for stop in roadmap.stops_of(ran.name)) or "The roadmap"
    lines = [f"<article>\n<small>{html.escape(stops)}</small>", f"<h2>{link}{html.escape(ran.title)}</a></h2>"]
    if ran.figure:
        alt = html.escape(ran.figure.alt or f"The first figure of {ran.title}")
        lines.append(f'{link}<img src="{ran.name}.png" alt="{alt}"></a>')
    lines.append(f'<p class="time">{html.escape(ran.name)}, {duration(ran.seconds)}</p>')
    if ran.failure:
        lines.append(
            f'<p class="bad">Failed at {html.escape(place(ran.failure))}: {html.escape(ran.failure.error)}</p>'
        )
    items = "".join(_item(claim, measurements.get(claim.key)) for claim in claims_of(ran.name))
    if items:
        lines.append(f"<ul>{items}</ul>")
    return "\n".join([*lines, "</article>"])


def _item(claim: Claim, measured: Measurement | None) -> str:
    statement = html.escape(claim.statement)
    if measured is None:
        return f'<li>{statement}: <strong class="bad">not measured</strong></li>'
    state = claims.state_of(measured.margin, measured.error)
    bad = claims.failed(claim, measured)
    colour = "bad" if bad else "good" if state == State.HOLDS else "open"
    number = f"{measured.margin:+.3g} ± {measured.error:.2g}"
    told = html.escape(", ".join(filter(None, (number, claims.verdict(claim, measured), measured.detail))))
    return f'<li>{statement}: <strong class="{colour}">{state.value}</strong> <small>{told}</small></li>'


def place(failure: Failure) -> str:
    """Where a notebook failed, in words."""
    return f"cell [{failure.cell}] {failure.line}" if failure.cell else "the start"


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
