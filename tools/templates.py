"""Texts with holes, in `site/templates` and `site/pages`, filled."""

import re
from typing import Any

import jinja2

from utils import chapters

SITE = chapters.ROOT / "site"


def plain(text: str) -> str:
    """A text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", " ".join(text.split()))


_environment = jinja2.Environment(lstrip_blocks=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
_environment.loader, _environment.autoescape = jinja2.FileSystemLoader(SITE), jinja2.select_autoescape()
_environment.filters["plain"] = plain


def rendered(name: str, **values: Any) -> str:
    """The template `site/NAME` with its values, without empty lines at its ends."""
    return _environment.get_template(name).render(values).strip("\n")
