"""Put documents that lie elsewhere in the repository into the website, with links that work in both.

A document stands in the website under its path in the repository, but for those of ``docs``, which stand at its top.
"""

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = PurePosixPath("docs")
ELSEWHERE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "third_party_notes.md",
    "anomalib_students/teacher/MODEL_CARD.md",
    "anomalib_students/teacher/README.md",
    "benchmarks/README.md",
    "examples/folder_to_openvino.py",
    "examples/own_teacher.py",
    "examples/what_students_see.py",
    "reproduction/README.md",
)
LINK = re.compile(r"(?<!`)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that lie elsewhere, before the plugin for notebooks looks for its own."""
    for path in ELSEWHERE:
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages, and those to files without a page into their text."""
    source = PurePosixPath(page.file.src_uri)
    folder = (source if str(source) in ELSEWHERE else DOCS / source).parent

    def replaced(match: re.Match[str]) -> str:
        is_image, text, target = match.groups()
        url = urlsplit(target)
        if url.scheme or not url.path:
            return match[0]
        path = PurePosixPath(os.path.normpath(folder / url.path))
        site_path = path.relative_to(DOCS) if path.is_relative_to(DOCS) else path
        if files.get_file_from_path(str(site_path)) is None and (ROOT / path).exists():
            return text
        relative = os.path.relpath(site_path, source.parent)
        return f"{is_image}[{text}]({relative}{'#' + url.fragment if url.fragment else ''})"

    return LINK.sub(replaced, markdown)
