"""The website's configuration. `python -m tools site` prepares what Sphinx reads and starts it with this file."""

from tools import generated
from tools.templates import SITE
from utils import chapters

ADDRESS = chapters.address()

project = "DeepSeek by the Numbers"
author = "the course's authors"
copyright = "text and figures CC BY 4.0, code Apache 2.0"
locale_dirs = [str(SITE / "locale")]
gettext_compact = False

extensions = ["myst_nb", "sphinx_design", "sphinx_copybutton", "tools.website.extension"]
suppress_warnings = ["myst.header"]  # a section may begin two levels down
smartquotes = False  # texts stand as they are written
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # so that links in outputs fit, too
nb_render_text_lexer = "none"  # what a cell prints is no code
nb_ipywidgets_js = {}  # no script from a network
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

templates_path = [str(SITE / "_templates")]
html_static_path = [str(SITE / "_static")]
html_css_files = ["course.css"]
html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = project
html_show_sphinx = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_persistent": [],  # the search stands in the sidebar
    "show_toc_level": 1,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if ADDRESS.repository:  # until the course has an address, no button leads into nothing
    html_theme_options |= {
        "repository_url": f"{generated.HOST}/{ADDRESS.repository}",
        "repository_branch": ADDRESS.tag,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        "use_repository_button": True,
    }
