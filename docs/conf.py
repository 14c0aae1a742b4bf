"""How Sphinx builds the site; `make docs` does, with warnings as errors."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "plugins")]

import method_pages  # noqa: E402 - beside this file
import readme_parts  # noqa: E402

import nbadapt  # noqa: E402

project = "nbadapt"
author = "the authors of nbadapt"
copyright = author  # noqa: A001 - Sphinx's word for it
release = version = nbadapt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "_parts"]
default_role = "code"
html_theme = "furo"
smartquotes = False  # -- is an option
html_title = f"nbadapt {release}"
html_static_path = ["_static"]
html_css_files = ["nbadapt.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"

linkcheck_anchors = False  # pages of code hosts make theirs in the browser
linkcheck_retries, linkcheck_timeout = 2, 20  # seconds

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
napoleon_preprocess_types = False
autodoc_default_options = {"members": True, "exclude-members": "model_config, Config"}
suppress_warnings = ["ref.python"]  # two classes may have attributes of one name; each is linked within its own page


def keep_colons(app, what, name, obj, options, lines):  # noqa: ANN001, ANN201, ARG001, D103 - Sphinx's hook
    if what in {"property", "attribute"}:  # napoleon takes what stands before a colon in the first line for a type
        lines.insert(0, "\N{ZERO WIDTH SPACE}")


def setup(app):  # noqa: ANN001, ANN201, D103 - Sphinx's hook
    app.connect("builder-inited", lambda _: (method_pages.write(HERE), readme_parts.write(HERE)))
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
