"""For mkdocs: what these pages say in the repository's terms, in the site's."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import get_plugin_logger

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
SHIM = "https://unpkg.com/iframe-worker/shim"
log = get_plugin_logger("repository")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files outside docs/ become their paths; one that is not there is a warning, which ends the build."""
    here = Path(page.file.abs_src_path).parent

    def path(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(here / link[2]))
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            log.warning("%s: no %s", page.file.src_uri, link[2])
        return link[1] if link[1].startswith("`") else f"{link[1]} (`{target.relative_to(ROOT)}`)"

    return LINK.sub(path, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The theme would fetch a script for searching pages opened from disk; ours stands beside them."""
    return output.replace(SHIM, "../" * page.url.count("/") + "search-from-disk.js")


def on_post_template(output_content: str, **_: Any) -> str:
    return output_content.replace(SHIM, "search-from-disk.js")
