"""Links lead somewhere, and README stays short."""

from urllib.parse import urlsplit

import pytest

from .documents import DOCUMENTS, ROOT, anchors, blocks, links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document):
    for link in links(document):
        url = urlsplit(link)
        if url.scheme:
            assert url.scheme in {"https", "http", "mailto"}, link
            continue
        target = (document.parent / url.path).resolve() if url.path else document
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if url.fragment:
            assert url.fragment in anchors(target), f"{link}: there are {sorted(anchors(target))}"


def test_readme_is_short_and_leads_to_every_page():
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 150
    linked = {(ROOT / urlsplit(link).path).resolve() for link in links(readme)}
    pages = {*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "api.md"}
    assert pages <= linked


def test_every_picture_of_the_documents_is_shown_somewhere():
    shown = {(document.parent / link).resolve() for document in DOCUMENTS for link in links(document)}
    assert set((ROOT / "docs" / "assets").glob("*.png")) <= shown


def test_blocks_are_in_languages_that_are_checked():
    checked = {"sh", "python", "", "yaml"}
    text = {document: document.read_text().count("```") for document in DOCUMENTS}
    assert sum(text.values()) == 2 * sum(len(blocks(language)) for language in checked)
