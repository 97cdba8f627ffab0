"""Small XML answers of S3 as trees. (Listings of objects are not small: `tierfs.lake.s3_listing`.)

Namespaces are dropped, elements of any kind and order are kept, document types are refused: no
answer has one, and entities of a document's own are how XML parsers are attacked.
"""

from __future__ import annotations

from xml.parsers import expat

from tierfs.errors import LakeProtocolError


class Element:
    """One element: its *name*, the *text* in it, its *children*."""

    __slots__ = ("children", "name", "text")

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = ""
        self.children: list[Element] = []

    def get(self, name: str) -> str:
        """The text of the first child of that name; empty where there is none."""
        for child in self.children:
            if child.name == name:
                return child.text.strip()
        return ""

    def all(self, name: str) -> list[Element]:
        """The children of that name."""
        return [child for child in self.children if child.name == name]


def parse(body: bytes) -> Element:
    """The root of a document. Raises LakeProtocolError."""
    document = Element("")
    path = [document]

    def start(name: str, _attributes: dict[str, str]) -> None:
        element = Element(name.rpartition(":")[2])
        path[-1].children.append(element)
        path.append(element)

    def end(_name: str) -> None:
        path.pop()

    def data(text: str) -> None:
        path[-1].text += text

    def doctype(*_details: object) -> None:
        raise LakeProtocolError("an answer declares a document type")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = data
    parser.StartDoctypeDeclHandler = doctype
    try:
        # A server that keeps the connection alive with spaces sends them before the declaration,
        # where XML has no room for them.
        parser.Parse(body.lstrip(), True)
    except expat.ExpatError as error:
        raise LakeProtocolError("an answer is not well-formed XML", "", str(error)) from None
    return document.children[0]
