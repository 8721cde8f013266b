"""The documents of the repository: their code blocks, shell commands, headings and links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "anomalib_students").rglob("*.md"),
        *(ROOT / "reproduction").rglob("*.md"),
    ]
)

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^()\s]+)\)")


class Block(NamedTuple):
    """A fenced block of code."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> list[Block]:
    """All blocks in a language."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in FENCE.finditer(text):
            indent, named, body = match.groups()
            if named == language:
                line = text.count("\n", 0, match.start()) + 2
                body = "".join(part.removeprefix(indent) for part in body.splitlines(keepends=True))
                found.append(Block(document, line, named, body))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as lists of words, without comments; a command may go over several lines."""
    pending = ""
    for line in text.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation is not closed yet
            pending += "\n"
            continue
        pending = ""
        if words:
            yield words
    assert not pending, f"this command does not end: {pending}"


def inline_code(document: Path) -> list[str]:
    """All code within sentences, which may be broken over lines."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", document.read_text()))]


def prose(document: Path) -> str:
    """The text of a document without its code."""
    return INLINE_CODE.sub("", FENCE.sub("", document.read_text()))


def links(document: Path) -> list[str]:
    """Targets of all links and images."""
    return LINK.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """Anchors of the headings, as code hosts and our website make them."""
    headings = HEADING.findall(FENCE.sub("", document.read_text()))
    # A link as a heading counts by its text.
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}
