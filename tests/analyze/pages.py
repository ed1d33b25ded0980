"""Pages, read as a browser would."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page would load, what it links to, elsewhere and in itself, and its text."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.anchors, self.ids, self.text, self.headings, self._tag = (
            *([] for _ in range(6)),
            "",
        )
        self.feed(text)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster", "action", "xlink:href") or (tag, name) == ("link", "href"):
                self.loads += [] if value.startswith("data:") else [value]
            if (tag, name) == ("a", "href"):
                (self.anchors if value.startswith("#") else self.links).append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        if self._tag == "h2":
            self.headings.append(data.strip())
        if self._tag not in ("style", "script"):
            self.text.append(data)
