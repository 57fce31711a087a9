"""`Transform`: checks, static use, pickling, missing operations, user-defined families."""

import base64
import concurrent.futures
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stn_jax
from stn_jax import transforms
from stn_jax.transforms import Transform


def shear_points(theta: jax.Array, points: jax.Array) -> jax.Array:
    x, y = points[..., 0], points[..., 1]
    return jnp.stack([x + theta[0] * y, y], axis=-1)


SHEAR = Transform("shear", 2, np.zeros(1), shear_points, inverse=jnp.negative)
FAMILIES = [
    transforms.affine,
    transforms.projective,
    transforms.rigid_3d,
    transforms.thin_plate_spline((3, 3), 0.1),
    transforms.series(transforms.affine, 2),
    transforms.series(transforms.thin_plate_spline(), 2),
]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=repr)


@every_family
def test_unpickling_returns_the_same_object(family: Transform) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(family, protocol)) is family


def test_unpickling_in_another_process_returns_its_object() -> None:
    pickled = base64.b64encode(pickle.dumps(FAMILIES)).decode()
    code = (
        "import base64, pickle\n"
        f"found = pickle.loads(base64.b64decode('{pickled}'))\n"
        "from stn_jax.transforms import *\n"
        "expected = [affine, projective, rigid_3d, thin_plate_spline((3, 3), 0.1),\n"
        "            series(affine, 2), series(thin_plate_spline(), 2)]\n"
        "print(all(a is b for a, b in zip(found, expected, strict=True)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "True"


def test_user_defined_families_are_pickled_by_the_name_of_a_variable() -> None:
    assert pickle.loads(pickle.dumps(SHEAR)) is SHEAR


def test_families_that_cannot_be_found_again_are_not_pickled() -> None:
    local = Transform("local", 2, np.zeros(1), shear_points)
    renamed = dataclasses.replace(transforms.thin_plate_spline(), name="renamed")
    for family in (local, renamed):
        with pytest.raises(TypeError, match=r"cannot pickle Transform\("):
            pickle.dumps(family)


def test_families_requested_from_several_threads_are_one_object() -> None:
    for make in (
        lambda: transforms.thin_plate_spline((7, 6), 0.5),
        lambda: transforms.series(transforms.thin_plate_spline((6, 7), 0.5), 3),
    ):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = [future.result() for future in [pool.submit(make) for _ in range(8)]]
        assert len(set(found)) == 1


@every_family
def test_a_transform_is_a_static_value(family: Transform) -> None:
    assert jax.tree.leaves(family) == []
    assert {family: 1}[family] == 1
    theta, points = family.identity, np.ones((3, family.ndim), np.float32)
    warped = jax.jit(lambda given, theta, points: given.warp(theta, points))(family, theta, points)
    np.testing.assert_array_equal(warped, points)
    with pytest.raises(dataclasses.FrozenInstanceError):
        family.name = "another"  # type: ignore[misc]


class NnxWarp(nnx.Module):
    def __init__(self, transform: Transform) -> None:
        self.transform = transform
        self.theta = nnx.Param(jnp.asarray(transform.identity))

    def __call__(self, image: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(image, self.theta[...], self.transform)


class LinenWarp(flax.linen.Module):
    transform: Transform

    @flax.linen.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        theta = self.param("theta", lambda key: jnp.asarray(self.transform.identity))
        return stn_jax.spatial_transform(image, theta, self.transform)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TreeWarp:
    """A module whose fields are all children of a pytree, as in Equinox."""

    transform: Transform
    theta: jax.Array

    def __call__(self, image: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(image, self.theta, self.transform)


def test_a_transform_is_a_field_of_a_pytree() -> None:
    image = jnp.arange(12.0).reshape(3, 4, 1)
    module = TreeWarp(SHEAR, jnp.zeros(1))
    gradient = jax.jit(jax.grad(lambda module: jnp.sum(module(image) ** 2)))(module)
    assert gradient.transform is SHEAR
    updated = jax.tree.map(lambda leaf, change: leaf - change, module, gradient)
    assert updated.transform is SHEAR
    assert len(jax.tree.leaves(updated)) == 1


@pytest.mark.parametrize("family", [transforms.affine, SHEAR], ids=repr)
def test_a_transform_is_an_attribute_of_flax_modules(family: Transform) -> None:
    image = jnp.arange(12.0).reshape(3, 4, 1)
    module = NnxWarp(family)
    gradient = nnx.jit(nnx.grad(lambda module, image: jnp.sum(module(image) ** 2)))(module, image)
    assert jax.tree.leaves(gradient)[0].shape == (family.num_params,)
    graph, state = nnx.split(module)
    assert nnx.merge(graph, state).transform is family
    assert len(jax.tree.leaves(state)) == 1
    linen = LinenWarp(family)
    output = linen.apply(linen.init(jax.random.key(0), image), image)
    np.testing.assert_array_equal(output, image)
    assert pickle.loads(pickle.dumps(linen)) == linen


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name must be a string that is not empty; got ''"),
        ({"name": 3}, "name must be a string that is not empty; got 3"),
        ({"ndim": 4}, "ndim must be 2 or 3; got 4"),
        ({"ndim": 2.0}, "ndim must be 2 or 3; got 2.0"),
        ({"identity": np.zeros(1, object)}, "identity must be a vector of finite numbers; got"),
        ({"identity": [[0.0]]}, "identity must be a vector of finite numbers; got"),
        ({"identity": np.zeros((30, 30))}, "identity must be a vector of .*; got array"),
        ({"identity": []}, "identity must be a vector of finite numbers; got"),
        ({"identity": ["a"]}, "identity must be a vector of finite numbers; got"),
        ({"identity": [np.nan]}, "identity must be a vector of finite numbers; got"),
        ({"identity": [0.5]}, r"identity of shear must map points to themselves; got \["),
        ({"warp": None}, "warp must be a function of theta and points; got None"),
        ({"warp": lambda theta, points: points[..., 0]}, r"warp of shear must return floating \["),
        ({"warp": lambda theta, points: points > 0}, r"warp of .* return .*; got bool\[2\]"),
        ({"warp": lambda theta: theta}, "warp of shear must accept arrays of shape .*TypeError"),
        ({"warp": lambda theta, points: points * theta[:, None]}, "warp of shear must return"),
        ({"warp": lambda theta, points: points * jnp.nan}, "identity of shear must map points"),
        ({"matrix": 1}, "matrix must be a function or None; got 1"),
        ({"matrix": lambda theta: theta}, r"matrix of shear must return floating \[2, 3\] or"),
        ({"inverse": lambda theta: 2.0}, r"inverse of shear must return floating \[1\].*got float"),
        ({"compose": lambda a, b: jnp.stack([a, b])}, r"compose of .*; got float32\[2, 1\]"),
    ],
)
def test_invalid_fields_give_a_one_line_error(
    fields: dict[str, Any], message: str, unchecked: None
) -> None:
    valid = {"name": "shear", "ndim": 2, "identity": [0.0], "warp": shear_points}
    with pytest.raises(ValueError, match=message) as error:
        Transform(**(valid | fields))
    assert len(str(error.value).splitlines()) == 1


def test_families_can_be_made_inside_a_traced_function() -> None:
    @jax.jit
    def warp(theta: jax.Array, points: jax.Array) -> jax.Array:
        return Transform("shear", 2, np.zeros(1), shear_points).warp(theta, points)

    np.testing.assert_array_equal(warp(jnp.ones(1), jnp.ones(2)), [2, 1])


def test_the_check_of_operations_can_be_skipped() -> None:
    def warp(theta: jax.Array, points: jax.Array) -> jax.Array:
        raise AssertionError

    assert Transform("unchecked", 2, np.zeros(1), warp, check=False).num_params == 1


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("matrix", lambda family: family.matrix(family.identity)),
        ("compose", lambda family: family.compose(family.identity, family.identity)),
        ("inverse", lambda family: family.inverse(family.identity)),
    ],
)
def test_missing_operations_raise_a_clear_error(
    operation: str, call: Callable[[Transform], jax.Array]
) -> None:
    spline = transforms.thin_plate_spline((3, 3))
    assert not getattr(spline, f"has_{operation}")
    assert getattr(transforms.affine, f"has_{operation}")
    with pytest.raises(NotImplementedError, match=f"thin_plate_spline defines no {operation}"):
        call(spline)


def test_user_defined_families_warp_images_and_points() -> None:
    image, theta = jnp.arange(20.0).reshape(4, 5, 1), jnp.asarray([0.3])
    as_affine = jnp.asarray([1.0, 0.3, 0.0, 0.0, 1.0, 0.0])

    def loss(theta: jax.Array, transform: Transform) -> jax.Array:
        return jnp.sum(stn_jax.spatial_transform(image, theta, transform) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(theta, SHEAR)
    expected, affine_gradient = jax.value_and_grad(loss)(as_affine, transforms.affine)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, affine_gradient[1:2], rtol=1e-4)
    assert (stn_jax.spatial_transform(image, SHEAR.identity, SHEAR) == image).all()
    points = jnp.asarray([[1.0, 2.0], [3.0, 0.5]])
    there = stn_jax.warp_points(points, theta, SHEAR, (4, 5), to="input")
    back = stn_jax.warp_points(there, theta, SHEAR, (4, 5), to="output")
    np.testing.assert_allclose(back, points, atol=1e-6)
    twice = transforms.series(SHEAR, 2)
    np.testing.assert_allclose(
        twice.warp(jnp.asarray([0.1, 0.2]), points), SHEAR.warp(theta, points)
    )


def test_a_series_takes_numpy_integers_but_no_bool(unchecked: None) -> None:
    assert transforms.series(transforms.affine, np.int64(2)) is FAMILIES[4]
    with pytest.raises(ValueError, match="count must be a whole number of at least 1; got True"):
        transforms.series(transforms.affine, True)
