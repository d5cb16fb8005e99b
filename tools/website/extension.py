"""What the course adds to Sphinx: formulas as MathML, words that show their meaning, pages to print."""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from tools import languages
from tools.pages import formula
from tools.website import prints
from tools.website.sources import GLOSSARY


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("doctree-resolved", _explain_words)
    app.connect("html-page-context", prints.keep_body)
    app.connect("build-finished", prints.write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}


# Formulas need no script and no font file.


def _inline_math(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(formula(node.astext()) + "\N{WORD JOINER}")  # a comma stays with its formula
    raise nodes.SkipNode


def _block_math(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(writer.starttag(node, "div", CLASS="math", tabindex="0"))
    writer.body.append(formula(node.astext(), "block") + "</div>")
    raise nodes.SkipNode


# A word of the glossary shows its meaning where a chapter links to it, and in each chapter that it is about, once.


def _explain_words(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if not docname.startswith("notebooks/"):
        return
    chinese = app.config.language == "zh_CN"
    meanings = {term.anchor: term.definition_zh if chinese else term.definition for term in languages.glossary()}
    home = app.builder.get_relative_uri(docname, GLOSSARY) + "#"
    number = docname.removeprefix("notebooks/")[:2]
    for term in languages.glossary():
        if number in term.chapters:
            words = rf"\b{re.escape(term.term)}s?\b" + (f"|{re.escape(term.zh)}" if chinese else "")
            _link_first(doctree, words, home + term.anchor)
    for link in list(doctree.findall(nodes.reference)):
        uri = link.get("refuri", "")
        if uri.startswith(home) and uri.removeprefix(home) in meanings:
            link.replace_self(nodes.abbreviation("", "", link.deepcopy(), explanation=meanings[uri.removeprefix(home)]))


def _link_first(doctree: nodes.document, words: str, uri: str) -> None:
    """Link the first place where running text says what a pattern describes."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.list_item):
            continue  # a list of tasks says "decode", and means the reader
        for text in list(paragraph.findall(nodes.Text)):
            found = re.search(words, text, re.IGNORECASE)
            if found and isinstance(text.parent, (nodes.paragraph, nodes.emphasis, nodes.strong)):
                start, end = found.span()
                link = nodes.reference("", text[start:end], refuri=uri, internal=True)
                pieces = [nodes.Text(text[:start]), link, nodes.Text(text[end:])]
                text.parent.replace(text, [piece for piece in pieces if piece.astext()])
                return
