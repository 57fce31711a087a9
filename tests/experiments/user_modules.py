"""Modules with user-defined families, as a user would write them."""

SHEARS = """
import jax.numpy as jnp
import numpy as np
from stn_jax.transforms import Transform

def shear_points(theta, points):
    x, y = points[..., 0], points[..., 1]
    return jnp.stack([x + theta[0] * y, y], axis=-1)

def shift_points(theta, points):
    return points + theta

shear = Transform("shear", 2, np.zeros(1), shear_points)
shift_3d = Transform("shift_3d", 3, np.zeros(3), shift_points)
unchecked = Transform("unchecked", 2, np.ones(1), shear_points, check=False)
"""

# What a module holds, and the object in it -> parts of the error. NAME is the module.
REJECTED = {
    "missing module": (None, "shear", "there is no module NAME; run the command in the folder"),
    "missing submodule": (SHEARS, "shear", "there is no module NAME"),
    "misspelt object": (SHEARS, "shaer", "NAME has no object shaer; perhaps you meant shear"),
    "unknown object": (SHEARS, "zzz", "no object zzz; its transformations are shear, shift_3d, un"),
    "empty module": ("", "zzz", "module NAME has no object zzz; it defines no Transform"),
    "function": (SHEARS, "shear_points", "got an object of type function"),
    "error": ("x = 1\n1 / 0", "x", "raises ZeroDivisionError: division by zero (", "line 2)"),
    "syntax error": ("x = (", "x", "importing NAME raises SyntaxError: '(' was never closed"),
    "exit": ("raise SystemExit", "x", "importing NAME raises SystemExit"),
    "missing requirement": ("import no_such", "x", "ModuleNotFoundError: No module named 'no_such"),
    "invalid family": (
        SHEARS.replace("zeros", "ones"),
        *("shear", "raises ValueError: identity of shear must map points to themselves"),
    ),
    "invalid unchecked family": (SHEARS, "unchecked", "identity of unchecked must map points to"),
    "family for volumes": (SHEARS, "shift_3d", "must have ndim 2 with", "NAME:shift_3d, which has"),
}


def parts_of_error(kind: str, name: str) -> list[str]:
    """The parts of the error of a rejected module of this name."""
    _, _, *parts = REJECTED[kind]
    return ["--transform", *(part.replace("NAME", name) for part in parts)]
