"""What a page of HTML should be: well formed, and in need of nothing else."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}
REFERENCES = ("src", "href", "srcset", "data", "poster", "action", "background")


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        text: what a person reads.
        images: the pictures that it holds.
        outside: what it refers to that is not in it.
        anchors: the keys of its sections.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.images, self.outside = "", list[bytes](), list[str]()
        self.anchors, self.links = list[str](), list[str]()
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "link", "iframe", "object", "embed", "base"):
            self.outside.append(tag)
        for name, value in attrs:
            if name == "id":
                self.anchors.append(value)
            if name not in REFERENCES:
                continue
            if value.startswith("data:image/png;base64,"):
                self.images.append(base64.b64decode(value.partition(",")[2], validate=True))
            elif value.startswith("#"):
                self.links.append(value[1:])
            else:
                self.outside.append(value)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"closed out of order: {tag}"

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            self.outside += [data] if "url(" in data or "@import" in data else []
        else:
            self.text += data


def parsed(source: str) -> Page:
    """Parse a page, and hold it to what every page must be."""
    page = Page(source)
    assert page.outside == []
    assert set(page.links) <= set(page.anchors)
    assert all(image.startswith(b"\x89PNG") for image in page.images)
    return page
