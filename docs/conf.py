"""Configuration of the documentation site. Build it with `make docs`."""

import inspect
import os
import pathlib
import sys

from flax import nnx

import stn_jax

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))


def _prepend(variable: str, path: pathlib.Path) -> None:
    os.environ[variable] = os.pathsep.join([str(path), os.environ.get(variable, "")]).rstrip(":")


# Kernels of notebooks compute on the CPU, and run this Python and these sources in any folder.
os.environ["JAX_PLATFORMS"] = "cpu"
_prepend("PATH", pathlib.Path(sys.executable).parent)
_prepend("PYTHONPATH", DOCS.parent)

project = "stn_jax"
author = "the stn_jax authors"
copyright = author
release = version = stn_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "command_reference",
    "public_names",
]
exclude_patterns = ["_build", "_ext", "examples", "jupyter_execute", "**/.ipynb_checkpoints"]
default_role = "py:obj"  # single backticks in docstrings become code, and links where possible
nitpicky = False  # types of jax and flax are not linked, because the build needs no network

html_theme = "sphinx_book_theme"
html_title = "stn_jax"
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell, on a busy machine
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes, which the types of arrays do not show
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_preprocess_types = True
napoleon_use_ivar = True  # attributes are described once, in the docstring of their class
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _without_annotations(app, what, name, obj, options, signature, return_annotation):
    """Shortens signatures to names and defaults."""
    if signature is None or what not in ("function", "class", "method"):
        return None
    try:
        # The metaclass of NNX modules hides the arguments of their constructors.
        is_nnx = inspect.isclass(obj) and issubclass(obj, nnx.Module)
        found = inspect.signature(obj.__init__ if is_nnx else obj)
    except (TypeError, ValueError):
        return None
    parameters = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in found.parameters.values()
        if each.name not in ("self", "parent", "name") or what == "function"
    ]
    return str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty)), ""


def setup(app):
    """Registers the hook that shortens signatures."""
    app.connect("autodoc-process-signature", _without_annotations)
