"""The modules of both APIs work in JAX's strict modes, on meshes and in exported programs."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import stn_jax.nnx
from stn_jax import linen, transforms
from stn_jax.transforms.base import at_least_float32

IMAGES = jax.random.normal(jax.random.key(0), (4, 28, 28, 1))
VOLUMES = jax.random.normal(jax.random.key(0), (4, 4, 8, 8, 1))
Loss = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]


def spatial_transformer(localisation: nn.Module, transform: transforms.Transform) -> nn.Module:
    return linen.SpatialTransformer(localisation, transform, output_shape=(8,) * transform.ndim)


LINEN = {
    "cnn": (
        linen.SpatialTransformerNetwork(
            (
                spatial_transformer(linen.CNNLocalisationNetwork((4, 4, 8)), transforms.affine),
                linen.Conv(4, (3, 3), strides=2, feature_group_count=1),
                linen.Conv(4, (3, 3), kernel_dilation=2, feature_group_count=2),
                linen.AveragePool(),
                linen.DenseHead(3, 4, 0.5),
            )
        ),
        IMAGES,
    ),
    "tutorial": (linen.TutorialClassifier(), IMAGES),
    "parallel": (
        linen.ParallelTransformers(
            [
                spatial_transformer(linen.FCNLocalisationNetwork((4,)), transform)
                for transform in (transforms.projective, transforms.thin_plate_spline((3, 3)))
            ]
        ),
        IMAGES,
    ),
    "iterative": (
        linen.IterativeTransformer(
            linen.FCNLocalisationNetwork((4,)), transforms.projective, num_iterations=2
        ),
        IMAGES[:, ::2, ::2],
    ),
    "volumes": (
        linen.SpatialTransformerNetwork(
            (
                spatial_transformer(
                    linen.VolumeLocalisationNetwork((4,), downsample=2), transforms.affine_3d
                ),
                linen.Projection(),
                linen.FCN(3, (4,)),
            )
        ),
        VOLUMES,
    ),
}


def scalar(result: Any) -> tuple[jax.Array, jax.Array]:
    output = result[0] if isinstance(result, tuple) else result
    return jnp.sum(jnp.square(at_least_float32(output))), output


@functools.cache
def linen_loss(name: str) -> tuple[Loss, Any, jax.Array]:
    """A loss of a model, its parameters and images."""
    module, images = LINEN[name]
    params = jax.jit(module.init)(jax.random.key(1), images)
    rngs = {"dropout": jax.random.key(2)}
    return (lambda params, x: scalar(module.apply(params, x, rngs=rngs))), params, images


@functools.cache
def nnx_loss(name: str) -> tuple[Loss, Any, jax.Array]:
    rngs, shape = nnx.Rngs(0), IMAGES.shape[1:]
    localisation = stn_jax.nnx.CNNLocalisationNetwork(shape, (4, 4, 8), rngs=rngs)
    model = stn_jax.nnx.SpatialTransformerNetwork(
        (
            stn_jax.nnx.SpatialTransformer(localisation, transforms.affine, rngs=rngs),
            stn_jax.nnx.TutorialClassifier(shape, rngs=rngs),
        )
    )
    graph, params, others = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return scalar(nnx.merge(graph, params, others, copy=True)(images))

    return loss, params, IMAGES


LOSSES = dict.fromkeys(LINEN, linen_loss) | {"nnx": nnx_loss}
every_model = pytest.mark.parametrize("name", LOSSES)


def gradient(loss: Loss) -> Callable[[Any, jax.Array], Any]:
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def dtype_promotion_is_explicit(loss: Loss, params: Any, images: jax.Array) -> None:
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(gradient(loss), params, images)
        half = jax.eval_shape(gradient(loss), params, images.astype(jnp.bfloat16))
    assert half[0][0].dtype == jnp.float32


def rank_promotion_is_explicit(loss: Loss, params: Any, images: jax.Array) -> None:
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(gradient(loss), params, images)


def leaks_no_tracer(loss: Loss, params: Any, images: jax.Array) -> None:
    with jax.check_tracer_leaks():
        jax.eval_shape(loss, params, images[:1])


def produces_no_nan(loss: Loss, params: Any, images: jax.Array) -> None:
    with jax.debug_nans(True):
        gradient(loss)(params, images)


def runs_without_jit(loss: Loss, params: Any, images: jax.Array) -> None:
    expected = jax.jit(loss)(params, images[:1])
    with jax.disable_jit():
        found = loss(params, images[:1])
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4), found, expected
    )


def transforms_compose(loss: Loss, params: Any, images: jax.Array) -> None:
    """Forward over reverse mode, recomputation and `linearize` can be traced."""

    def value(params: Any) -> jax.Array:
        return jax.checkpoint(loss)(params, images)[0]

    def second_derivative(params: Any) -> Any:
        return jax.jvp(jax.grad(value), (params,), (params,))[1]

    jax.eval_shape(second_derivative, params)
    jax.eval_shape(lambda params: jax.linearize(value, params)[1](params), params)


def maps_over_members(loss: Loss, params: Any, images: jax.Array) -> None:
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    outputs = jax.eval_shape(jax.vmap(loss, in_axes=(0, None)), members, images)[1]
    assert outputs.shape[:2] == (2, len(images))
    jax.eval_shape(lambda members: jax.lax.map(lambda each: loss(each, images), members), members)


def computes_in_double_precision(loss: Loss, params: Any, images: jax.Array) -> None:
    def widen(leaf: jax.Array) -> jax.Array:
        return jnp.asarray(leaf, jnp.float64)

    with jax.enable_x64(True):
        _, output = jax.eval_shape(loss, jax.tree.map(widen, params), widen(images))
    assert output.dtype == jnp.float64


def lowers_in_shard_map(loss: Loss, params: Any, images: jax.Array) -> None:
    mesh, batch = jax.make_mesh((2,), ("batch",)), PartitionSpec("batch")

    def mean_gradient(params: Any, images: jax.Array) -> Any:
        gradients = jax.grad(loss, has_aux=True)(params, images)[0]
        return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "batch"), gradients)

    step = jax.shard_map(
        mean_gradient, mesh=mesh, in_specs=(PartitionSpec(), batch), out_specs=PartitionSpec()
    )
    with jax.set_mesh(mesh):
        jax.jit(step).lower(params, jax.device_put(images, NamedSharding(mesh, batch)))


MODES = [
    dtype_promotion_is_explicit,
    rank_promotion_is_explicit,
    leaks_no_tracer,
    produces_no_nan,
    runs_without_jit,
    transforms_compose,
    maps_over_members,
    computes_in_double_precision,
    lowers_in_shard_map,
]


@every_model
@pytest.mark.parametrize("mode", MODES)
def test_every_module_works_in_every_mode(name: str, mode: Callable[..., None]) -> None:
    mode(*LOSSES[name](name))


def test_raw_keys_initialise_modules() -> None:
    raw = jax.random.PRNGKey(0)
    expected = LINEN["tutorial"][0].init(jax.random.key(0), IMAGES)
    found = LINEN["tutorial"][0].init(raw, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@every_model
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_batch_sharded_over_a_mesh(name: str, kind: AxisType) -> None:
    loss, params, images = LOSSES[name](name)
    expected = gradient(loss)(params, images)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("batch")))
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        program = gradient(loss).lower(params, sharded).compile()
        found = program(params, sharded)
    assert "all-gather" not in program.as_text()
    assert found[0][1].sharding.spec[0] == "batch"
    for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-4 * max(1e-6, np.abs(e).max()))


@every_model
def test_export_with_a_symbolic_batch(name: str, unchecked: None) -> None:
    loss, params, images = LOSSES[name](name)
    (batch,) = jax.export.symbolic_shape("batch")
    example = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    exported = jax.export.export(gradient(loss), platforms=["cpu", "cuda", "tpu"])(params, example)
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("name", ["cnn", "nnx"])
def test_theta_is_regressed_in_full_precision(name: str) -> None:
    loss, params, images = LOSSES[name](name)
    lines = jax.jit(loss).lower(params, images).as_text().splitlines()
    regression = [line for line in lines if "dot_general" in line and "tensor<8x6xf32>" in line]
    assert len(regression) == 1
    assert "precision = [HIGHEST, HIGHEST]" in regression[0]
