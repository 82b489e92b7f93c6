"""A report as one HTML page and as Markdown."""

import base64
from collections.abc import Iterator
from html import escape

from deploy.report.building import Figure, Report

TITLE = "State of the market"
_CSS = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #ffffff; --soft: #666; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --soft: #a0a0a0; --line: #3a3a3a; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); } h3 { margin-bottom: .2rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; } figure { margin: 1rem 0; }
figure img { width: 100%; background: #fff; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); font-size: .8rem; }
a { color: inherit; } nav li { margin: .1rem 0; }
"""


def html(report: Report) -> str:
    """Return one page that needs no other file; the numbers lie beside it as CSV."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{TITLE}: {escape(report.period.text)}</title><style>{_CSS}</style></head><body>",
            f"<h1>{TITLE}</h1>\n<p>{escape(report.period.text)}, UTC</p>",
            *(f"<p class=soft>{escape(fact)}</p>" for fact in report.facts),
            *_html_changes(report),
            *_html_figures(report),
            f"<h2>About</h2><p class=soft>{escape(_about(report))}</p></body></html>",
            "",
        ]
    )


def _html_changes(report: Report) -> Iterator[str]:
    if report.before is None:
        return
    yield f"<h2>Against {escape(report.before.text)}</h2>"
    for title, changes in report.changes.items():
        yield f"<h3>{escape(title)}</h3><table><tr><th></th><th>then</th><th>now</th><th>points</th></tr>"
        for each in changes:
            cells = _change_cells(each.before, each.now, each.points)
            yield f"<tr><td>{escape(each.value)}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"
        yield "</table>"


def _html_figures(report: Report) -> Iterator[str]:
    section = ""
    for figure in report.figures:
        analysis = figure.analysis
        if analysis.section != section:
            section = analysis.section
            yield f"<h2>{escape(section)}</h2>"
        yield f'<h3 id="{figure.name}">{escape(analysis.title)}</h3><p>{escape(figure.text)}</p>'
        if figure.svg:
            data = base64.b64encode(figure.svg.encode()).decode()
            yield (
                f'<figure><img alt="{escape(analysis.title)}: {escape(figure.text)}"'
                f' src="data:image/svg+xml;base64,{data}"><figcaption>{escape(analysis.note)}'
                "</figcaption></figure>"
            )
        yield (
            f"<details><summary class=soft>SQL and numbers</summary><pre>{escape(figure.sql)}</pre>"
            f'<p class=soft><a href="data/{figure.name}.csv">data/{figure.name}.csv</a></p></details>'
        )


def markdown(report: Report) -> str:
    """Return the same as Markdown, with the figures as files."""
    return "\n".join([*_markdown(report), ""])


def _markdown(report: Report) -> Iterator[str]:
    yield f"# {TITLE}\n\n{report.period.text}, UTC\n"
    for fact in report.facts:
        yield f"* {fact}"
    if report.before is not None:
        yield f"\n## Against {report.before.text}"
        for title, changes in report.changes.items():
            yield f"\n### {title}\n\n| | then | now | points |\n|---|---:|---:|---:|"
            for each in changes:
                cells = _change_cells(each.before, each.now, each.points)
                yield f"| {each.value} | {' | '.join(cells)} |"
    section = ""
    for figure in report.figures:
        if figure.analysis.section != section:
            section = figure.analysis.section
            yield f"\n## {section}"
        yield from _markdown_figure(figure)
    yield f"\n## About\n\n{_about(report)}"


def _markdown_figure(figure: Figure) -> Iterator[str]:
    analysis = figure.analysis
    yield f"\n### {analysis.title}\n\n{figure.text}"
    if figure.svg:
        yield f"\n![{analysis.title}](figures/{figure.name}.svg)"
        if analysis.note:
            yield f"\n*{analysis.note}*"
    yield f"\n```sql\n{figure.sql}\n```\n\n[Numbers](data/{figure.name}.csv)"


def _change_cells(before: float | None, now: float | None, points: float | None) -> list[str]:
    return [
        *("-" if share is None else f"{share:.2%}" for share in (before, now)),
        "-" if points is None else f"{points:+.2f}",
    ]


def _about(report: Report) -> str:
    return (
        f"Made at {report.made_at:%Y-%m-%d %H:%M:%S} UTC by tokentide report out of views that repeat the"
        " analyses of the study State of AI by OpenRouter and a16z (2025). Every paragraph is made of the"
        " numbers under it. Weeks begin on Monday; hatched ones are not over, or not all of them lies in"
        " the period. manifest.json has the SHA-256 of every file: tokentide report --verify DIR."
    )
