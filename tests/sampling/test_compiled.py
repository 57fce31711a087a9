"""Properties of the compiled sampler that its speed depends on: gathers, scatters, memory."""

import functools
import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import stn_jax
from stn_jax.sampling import bilinear

OPTIMISED = True  # the programs that users run

# Batch size, input side, channels, output side: smaller versions of the benchmark's cases.
CASES = {
    "grey": (32, 28, 1, 28),
    "shrunk": (32, 60, 1, 30),
    "colour": (8, 64, 3, 64),
    "feature": (8, 32, 64, 32),
    "photo": (1, 256, 3, 256),
}
needs_new_compiler = pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason="older compilers expand scatters into loops"
)


def warp(output_size: int, images: jax.Array, thetas: jax.Array) -> jax.Array:
    warp_one = functools.partial(
        stn_jax.spatial_transform,
        transform=stn_jax.transforms.affine,
        output_shape=(output_size, output_size),
    )
    return jax.vmap(warp_one)(images, thetas)


def arguments(case: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    batch, size, channels, output_size = CASES[case]
    random = np.random.default_rng(0)
    theta = np.asarray(stn_jax.transforms.affine.identity) + 0.1 * random.normal(size=(batch, 6))
    return (
        jnp.asarray(random.random((batch, size, size, channels)), jnp.float32),
        jnp.asarray(theta, jnp.float32),
        jnp.asarray(random.random((batch, output_size, output_size, channels)), jnp.float32),
    )


def gradients(case: str) -> Callable[..., Any]:
    def loss(images: jax.Array, thetas: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(warp(CASES[case][3], images, thetas) * weights)

    return jax.grad(loss, (0, 1))


def count(operation: str, program: Any) -> int:
    """The number of instructions of a kind in a compiled program."""
    return len(re.findall(rf" {operation}\(", program.as_text()))


@pytest.mark.parametrize("case", CASES)
def test_forward_pass_has_one_gather_per_tap(case: str) -> None:
    images, thetas, _ = arguments(case)
    program = jax.jit(functools.partial(warp, CASES[case][3])).lower(images, thetas).compile()
    assert count("gather", program) == 4
    assert count("scatter", program) == count("while", program) == 0


@needs_new_compiler
@pytest.mark.parametrize("case", CASES)
def test_gradients_have_few_gathers_and_scatters_and_no_loops(case: str) -> None:
    channels, output_size = CASES[case][2:]
    program = jax.jit(gradients(case)).lower(*arguments(case)).compile()
    assert count("while", program) == 0
    # One scatter per chunk of samples; with several channels, one per tap and chunk.
    taps, row = (1, 4) if channels == 1 else (4, -(-channels // 4) * 4)
    chunks = min(bilinear.MAX_CHUNKS, -(-(output_size**2) * row // bilinear.CHUNK_SIZE))
    assert count("scatter", program) == taps * chunks
    # Each tap is read once for both derivatives, per channel if channels are unrolled.
    unrolled = channels if channels <= bilinear.MAX_UNROLLED_CHANNELS else 1
    assert count("gather", program) == 4 * unrolled


@needs_new_compiler
@pytest.mark.parametrize("case", CASES)
def test_both_passes_need_little_more_than_four_times_the_memory_of_the_arrays(case: str) -> None:
    """The arrays are image, output and grid."""

    def both_passes(images: jax.Array, thetas: jax.Array, weights: jax.Array) -> Any:
        output, vjp = jax.vjp(functools.partial(warp, CASES[case][3]), images, thetas)
        return output, vjp(weights)

    images, thetas, weights = arguments(case)
    plan = jax.jit(both_passes).lower(images, thetas, weights).compile().memory_analysis()
    allowed = 4.1 * (images.nbytes + weights.nbytes + weights[..., 0].nbytes * 2)
    assert 0 < plan.temp_size_in_bytes + plan.output_size_in_bytes <= allowed


@needs_new_compiler
def test_gradient_to_a_shared_image_is_not_stored_per_theta() -> None:
    image = jnp.ones((256, 256, 1))
    thetas = jnp.tile(jnp.asarray(stn_jax.transforms.affine.identity), (64, 1))

    def loss(image: jax.Array) -> jax.Array:
        warped = jax.vmap(
            lambda theta: stn_jax.spatial_transform(
                image, theta, stn_jax.transforms.affine, output_shape=(8, 8)
            )
        )(thetas)
        return jnp.sum(warped**2)

    plan = jax.jit(jax.grad(loss)).lower(image).compile().memory_analysis()
    assert plan.temp_size_in_bytes < 8 * image.nbytes


@pytest.mark.parametrize("name", ["spatial_transform", "grid_sample"])
def test_a_function_is_one_call_under_vmap(name: str) -> None:
    """Without it, an eager call runs operation by operation and takes 30 times as long."""
    images, thetas, _ = arguments("grey")
    grids = jnp.zeros((len(images), 4, 4, 2))
    function, points = {
        "spatial_transform": (functools.partial(warp, 28), thetas),
        "grid_sample": (jax.vmap(stn_jax.grid_sample), grids),
    }[name]
    equations = jax.make_jaxpr(function)(images, points).eqns
    assert equations[-1].params["name"] == f"_{name}"
    assert len(equations) <= 2  # the other one makes an array of `fill`


def test_new_thetas_do_not_retrace_the_gradient() -> None:
    images, thetas, weights = arguments("grey")
    gradient = gradients("grey")

    @jax.jit
    @chex.assert_max_traces(n=1)
    def traced(images: jax.Array, thetas: jax.Array, weights: jax.Array) -> Any:
        return gradient(images, thetas, weights)

    for step in range(3):
        jax.block_until_ready(traced(images, thetas + step / 100, weights))


both_axis_types = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda axis_type: axis_type.name
)
COMMUNICATION = ("all-gather", "all-reduce", "all-to-all", "collective-permute")


@both_axis_types
def test_sharded_batch_needs_no_communication(axis_type: AxisType) -> None:
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))
    for case in ("grey", "colour", "feature"):
        unsharded = arguments(case)
        sharded = [jax.device_put(each, sharding) for each in unsharded]
        with jax.set_mesh(mesh):
            program = jax.jit(gradients(case)).lower(*sharded).compile()
        for operation in COMMUNICATION:
            assert count(operation, program) == 0
        on_one_device = jax.jit(gradients(case))(*unsharded)
        for actual, expected in zip(program(*sharded), on_one_device, strict=True):
            assert actual.sharding.is_equivalent_to(sharding, actual.ndim)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


@both_axis_types
def test_gradient_to_a_shared_image_needs_no_all_gather(axis_type: AxisType) -> None:
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))
    images, thetas, weights = arguments("colour")
    split, replicated = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("batch",), ()))

    def gradient(image: jax.Array, thetas: jax.Array, weights: jax.Array) -> jax.Array:
        def loss(image: jax.Array) -> jax.Array:
            warp_one = functools.partial(
                stn_jax.spatial_transform, image, transform=stn_jax.transforms.affine
            )
            return jnp.sum(jax.vmap(warp_one)(thetas) * weights)

        return jax.grad(loss)(image)

    given = [
        jax.device_put(a, s)
        for a, s in ((images[0], replicated), (thetas, split), (weights, split))
    ]
    with jax.set_mesh(mesh):
        program = jax.jit(gradient, out_shardings=replicated).lower(*given).compile()
    # Chunks may start in the middle of a shard, so parts of the samples are exchanged. Each tap of
    # each chunk adds to the previous ones, so each is summed over devices.
    assert count("all-gather", program) == count("all-to-all", program) == 0
    assert 0 < count("all-reduce", program) <= 4 * bilinear.MAX_CHUNKS
    expected = jax.jit(gradient)(images[0], thetas, weights)
    np.testing.assert_allclose(program(*given), expected, rtol=1e-4, atol=1e-4)


def limit_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes images of the case "colour" too large for a flat index."""
    monkeypatch.setattr(bilinear, "LARGEST_INDEX", 65 * 65 - 1)
    jax.clear_caches()  # the limit is read while a gradient is traced


def test_gradient_to_images_too_large_for_a_flat_index(monkeypatch: pytest.MonkeyPatch) -> None:
    images, thetas, weights = arguments("colour")
    expected = gradients("colour")(images[:1], thetas[:1], weights[:1])
    limit_indices(monkeypatch)
    actual = gradients("colour")(images[:1], thetas[:1], weights[:1])
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_shard_map_with_one_replicated_image() -> None:
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("batch",))
    image, thetas, weights = arguments("colour")[0][0], *arguments("colour")[1:]

    def gradient(image: jax.Array, thetas: jax.Array, weights: jax.Array) -> jax.Array:
        def loss(image: jax.Array) -> jax.Array:
            shared = jnp.broadcast_to(image, (len(thetas), *image.shape))
            return jnp.sum(warp(64, shared, thetas) * weights)

        return jax.grad(loss)(image)

    split, replicated = PartitionSpec("batch"), PartitionSpec()
    mapped = jax.shard_map(
        gradient, mesh=mesh, in_specs=(replicated, split, split), out_specs=replicated
    )
    actual, expected = jax.jit(mapped)(image, thetas, weights), gradient(image, thetas, weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("check_vma", "too_large"), [(True, False), (False, False), (True, True)])
def test_gradients_inside_shard_map_equal_jit(
    check_vma: bool, too_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("batch",))
    spec = PartitionSpec("batch")
    mapped = jax.shard_map(
        gradients("colour"), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma
    )
    given = arguments("colour")
    expected = jax.jit(gradients("colour"))(*given)
    if too_large:
        limit_indices(monkeypatch)
    program = jax.jit(mapped).lower(*given).compile()
    for operation in COMMUNICATION:
        assert count(operation, program) == 0
    chex.assert_trees_all_close(program(*given), expected, rtol=1e-4, atol=1e-4)
