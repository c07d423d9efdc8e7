"""Sphinx: the pages of this folder and an API reference from the docstrings; built by `make docs`, offline."""

from __future__ import annotations

import earthssl

project = "earthssl"
author = "the authors of earthssl"
release = version = earthssl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
templates_path = ["_templates"]
exclude_patterns = ["_templates"]
default_role = "code"  # docstrings write `name` for code

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a dataclass's fields in one list

html_theme = "furo"
html_title = "earthssl"
html_copy_source = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}  # no repository is named
