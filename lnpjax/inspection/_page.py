"""A page of HTML that holds everything it shows: no scripts, and nothing from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from string import Template
from typing import NamedTuple

from lnpjax._version import __version__
from lnpjax.inspection._tables import Table

HOME = "lnpjax"


class Picture(NamedTuple):
    """A picture, and how to read it.

    Attributes:
        content: a PNG file.
        name: what it shows, in a word.
        reading: how to read it, in a sentence or two.
    """

    content: bytes
    name: str
    reading: str


class Section(NamedTuple):
    """A section of a page.

    Attributes:
        key: its anchor.
        title: its heading.
        reading: what it is about.
        warnings: what is wrong with its numbers, or why there are none.
        tables: its tables.
        pictures: its pictures.
    """

    key: str
    title: str
    reading: str = ""
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6370; --paper: #ffffff;
  --line: #d9dce1; --warn: #fff4e0; --edge: #d98200; --link: #0063a6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --soft: #a4abb6; --paper: #16181c;
  --line: #3a3f47; --warn: #3a2c12; --edge: #e0962c; --link: #74b9ec; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.4rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
a { color: var(--link); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; }
.soft, figcaption { color: var(--soft); font-size: 0.92rem; }
.warning { background: var(--warn); border-left: 4px solid var(--edge); margin: 0.8rem 0;
  padding: 0.5rem 0.8rem; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.2rem 0; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.about th, .about td { text-align: left; white-space: normal; }
.about td:first-child { overflow-wrap: normal; }
figure { margin: 1rem 0; }
figure .wide { background: #ffffff; border: 1px solid var(--line); border-radius: 4px;
  padding: 0.4rem; }
figure img { display: block; width: 100%; min-width: 40rem; height: auto; }
pre { white-space: pre-wrap; }
@media print { html { font-size: 11px; } body { max-width: none; } nav { display: none; }
  figure, tr, .warning { break-inside: avoid; } h2, caption { break-after: avoid; }
  figure img { min-width: 0; } .wide { overflow: visible; } }
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="soft">$subtitle</p>
</header>
<nav aria-label="Sections"><ul>
$links
</ul></nav>
<main>
$sections
</main>
<footer>
<p class="soft">Made by $maker. This page holds everything that it shows.</p>
</footer>
</body>
</html>
""")


def page(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """Return a whole page.

    Args:
        title: its heading.
        subtitle: a line below it.
        sections: what it shows, in order.

    Returns:
        HTML in which all text is escaped and pictures are inline.

    Example:
        >>> text = page("A & B", "", [Section("loss", "Loss")])
        >>> "<h1>A &amp; B</h1>" in text, "http" in text
        (True, False)
    """
    shown = list(sections)
    links = "\n".join(
        f'<li><a href="#{html.escape(section.key)}">{html.escape(section.title)}</a></li>'
        for section in shown
    )
    return _PAGE.substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        links=links,
        sections="\n".join(_section(section) for section in shown),
        maker=html.escape(f"{HOME} {__version__}"),
    )


def about_table(title: str, values: Mapping[str, object]) -> Table:
    """Return a table of names and values."""
    rows = tuple((str(name), str(value)) for name, value in values.items())
    return Table(title, ("", "value"), rows)


def _section(section: Section) -> str:
    lines = [f'<section id="{html.escape(section.key)}">']
    lines.append(f"<h2>{html.escape(section.title)}</h2>")
    if section.reading:
        lines.append(f"<p>{html.escape(section.reading)}</p>")
    lines += [f'<p class="warning">{html.escape(text)}</p>' for text in section.warnings]
    lines += [_table(table) for table in section.tables]
    lines += [_picture(picture) for picture in section.pictures]
    return "\n".join([*lines, "</section>"])


def _table(table: Table) -> str:
    heading = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in table.headings)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    kind = ' class="about"' if table.headings == ("", "value") else ""
    note = f'<p class="soft">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="wide"><table{kind}><caption>{html.escape(table.title)}</caption>'
        f"<thead><tr>{heading}</tr></thead><tbody>\n{rows}\n</tbody></table></div>{note}"
    )


def _picture(picture: Picture) -> str:
    content = base64.b64encode(picture.content).decode()
    return (
        f'<figure><div class="wide"><img alt="{html.escape(picture.name)}" '
        f'src="data:image/png;base64,{content}"></div>'
        f"<figcaption>{html.escape(picture.reading)}</figcaption></figure>"
    )
