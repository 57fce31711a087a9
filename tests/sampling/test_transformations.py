"""The sampler under JAX transformations: jit, vmap, scan, derivatives, and retracing."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles
from tests.options import PAIRS, parametrize_options

# A fused multiply-add changes a position of 8 px by 5e-7; derivatives reach 10.
CLOSE = {"rtol": 0, "atol": 1e-5}


def images_and_grids(batch: int = 3) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(batch)
    images = jnp.asarray(random.normal(size=(batch, 5, 4, 2)), jnp.float32)
    return images, jnp.asarray(random.uniform(-2, 2, (batch, 3, 6, 2)), jnp.float32)


def sample_and_gradients(
    image: jax.Array, grid: jax.Array, cotangent: jax.Array, **options: Any
) -> Any:
    output, vjp = jax.vjp(functools.partial(stn_jax.grid_sample, **options), image, grid)
    return output, *vjp(cotangent)


@parametrize_options(PAIRS)
def test_jit_equals_eager(options: dict[str, Any]) -> None:
    images, grids = images_and_grids()
    cotangent = jnp.asarray(np.random.default_rng(8).normal(size=(3, 6, 2)), jnp.float32)
    run = functools.partial(sample_and_gradients, **options)
    eager = run(images[0], grids[0], cotangent)
    jitted = jax.jit(run)(images[0], grids[0], cotangent)
    # Gradients to the grid sum over channels, and a normalised unit is two pixels or more.
    for a, b, atol in zip(jitted, eager, (1e-5, 1e-5, 1e-4), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@parametrize_options(PAIRS)
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)], ids=["both", "grids", "images"])
def test_vmap_equals_loop(options: dict[str, Any], axes: tuple[int | None, int | None]) -> None:
    images, grids = images_and_grids()
    arguments = [a if axis == 0 else a[0] for a, axis in zip((images, grids), axes, strict=True)]
    cotangents = jnp.asarray(np.random.default_rng(9).normal(size=(3, 3, 6, 2)), jnp.float32)
    run = functools.partial(sample_and_gradients, **options)
    batch = jax.vmap(run, (*axes, 0))(*arguments, cotangents)
    loop = [
        run(*(a[i] if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)), c)
        for i, c in enumerate(cotangents)
    ]
    for actual, expected in zip(batch, zip(*loop, strict=True), strict=True):
        np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-6, atol=1e-5)


def test_nested_vmap_equals_flat_vmap() -> None:
    images, grids = images_and_grids(6)
    nested = jax.jit(jax.vmap(jax.vmap(stn_jax.grid_sample)))(
        images.reshape(2, 3, *images.shape[1:]), grids.reshape(2, 3, *grids.shape[1:])
    )
    flat = jax.jit(jax.vmap(stn_jax.grid_sample))(images, grids)
    np.testing.assert_allclose(nested.reshape(flat.shape), flat, **CLOSE)


def test_vmap_over_other_axes() -> None:
    images, grids = images_and_grids()
    moved = jax.vmap(stn_jax.grid_sample, in_axes=(3, 1), out_axes=2)(
        jnp.moveaxis(images, 0, 3), jnp.moveaxis(grids, 0, 1)
    )
    plain = jax.vmap(stn_jax.grid_sample)(images, grids)
    np.testing.assert_allclose(jnp.moveaxis(moved, 2, 0), plain, **CLOSE)


@pytest.mark.parametrize("padding_mode", oracles.PADDING_MODES)
def test_gradient_to_a_shared_image_sums_over_thetas(padding_mode: str) -> None:
    image = images_and_grids()[0][0]
    thetas = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)), jnp.float32)

    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(
            image, theta, stn_jax.transforms.affine, padding_mode=padding_mode
        )

    def loss(image: jax.Array, thetas: jax.Array) -> jax.Array:
        return (jax.vmap(warp, (None, 0))(image, thetas) ** 2).sum()

    to_image, to_thetas = jax.jit(jax.grad(loss, (0, 1)))(image, thetas)
    single = jax.jit(jax.grad(lambda i, t: (warp(i, t) ** 2).sum(), (0, 1)))
    loop = [single(image, theta) for theta in thetas]
    np.testing.assert_allclose(to_image, sum(g[0] for g in loop), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_thetas, np.stack([g[1] for g in loop]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transformation", [jax.jacfwd, jax.jacrev, jax.hessian])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_vmap_of_derivatives_equals_loop(transformation: Any, mode: str) -> None:
    images, grids = images_and_grids()
    points = grids[:, 0, :2]
    derivative = jax.jit(
        transformation(
            lambda image, p: (stn_jax.grid_sample(image, p, mode=mode) ** 2).sum(), argnums=1
        )
    )
    batch = jax.vmap(derivative)(images, points)
    loop = np.stack([derivative(i, p) for i, p in zip(images, points, strict=True)])
    assert np.isfinite(batch).all()
    np.testing.assert_allclose(batch, loop, rtol=1e-4, atol=1e-4)


def test_repeated_warp_inside_scan_equals_loop() -> None:
    image, theta = images_and_grids()[0][0], jnp.asarray([0.9, 0.1, 0.05, -0.1, 0.9, 0.0])

    def step(image: jax.Array, _: None) -> tuple[jax.Array, None]:
        return stn_jax.spatial_transform(image, theta, stn_jax.transforms.affine), None

    scanned, _ = jax.lax.scan(step, image, length=3)
    looped = image
    for _ in range(3):
        looped, _ = step(looped, None)
    np.testing.assert_allclose(scanned, looped, **CLOSE)


@pytest.mark.parametrize("mode", oracles.MODES)
def test_new_values_do_not_retrace(mode: str) -> None:

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(image: jax.Array, grid: jax.Array, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (
            stn_jax.grid_sample(image, grid, mode=mode),
            stn_jax.spatial_transform(image, theta, stn_jax.transforms.affine, mode=mode),
        )

    chex.clear_trace_counter()
    theta = jnp.asarray(stn_jax.transforms.affine.identity, jnp.float32)
    for image, grid in zip(*images_and_grids(), strict=True):
        run(image, grid, theta)
        run(image, grid * jnp.nan, theta * 0)


def test_eval_shape_needs_no_concrete_values() -> None:
    shape = jax.eval_shape(
        lambda i, g, t: (
            stn_jax.grid_sample(i, g),
            stn_jax.spatial_transform(i, t, stn_jax.transforms.affine, output_shape=(7, 8)),
        ),
        jax.ShapeDtypeStruct((5, 4, 2), jnp.float32),
        jax.ShapeDtypeStruct((3, 6, 2), jnp.float32),
        jax.ShapeDtypeStruct((6,), jnp.float32),
    )
    assert [s.shape for s in shape] == [(3, 6, 2), (7, 8, 2)]
