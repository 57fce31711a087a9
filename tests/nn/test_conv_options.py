"""Strides, padding, dilation and groups of `Conv` equal those of Flax, in both APIs."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stn_jax.nnx
from stn_jax import linen
from stn_jax.nn import conv2d, convolution

# (image shape, kernel size, features, options): the layers of residual networks, depthwise and
# dilated convolutions, options that differ by axis, and strides that leave pixels over.
LAYERS: list[tuple[tuple[int, ...], tuple[int, int], int, dict[str, Any]]] = [
    ((2, 11, 12, 3), (3, 3), 4, {"strides": 2}),
    ((2, 11, 12, 3), (7, 7), 5, {"strides": (2, 2), "padding": ((3, 3), (3, 3))}),
    ((2, 8, 9, 4), (1, 1), 6, {"strides": 2, "use_bias": False}),
    ((1, 10, 13, 2), (2, 3), 3, {"strides": (3, 2), "padding": "VALID"}),
    ((1, 10, 9, 2), (3, 3), 3, {"kernel_dilation": 2}),
    ((1, 12, 13, 2), (3, 2), 3, {"kernel_dilation": (2, 3), "strides": (1, 2), "padding": "VALID"}),
    ((2, 7, 8, 6), (3, 3), 4, {"feature_group_count": 2}),
    ((2, 7, 8, 4), (3, 3), 4, {"feature_group_count": 4, "padding": 1}),
    ((2, 7, 8, 4), (3, 3), 8, {"feature_group_count": 4, "strides": 2, "kernel_dilation": 2}),
    ((2, 6, 7, 2), (4, 3), 3, {"padding": (2, (0, 1))}),
]
IMAGE = jnp.zeros((1, 5, 6, 4))


def normal(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_close(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max())


def value_and_gradients(function: Any, params: Any, image: jax.Array) -> Any:
    """A function's value, and its gradients for fixed cotangents."""

    @jax.jit
    def run(params: Any, image: jax.Array) -> Any:
        value, vjp = jax.vjp(function, params, image)
        return value, vjp(jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))

    return run(params, image)


@pytest.mark.parametrize(("shape", "size", "features", "options"), LAYERS)
def test_linen_conv_equals_flax(
    shape: tuple[int, ...], size: tuple[int, int], features: int, options: dict[str, Any]
) -> None:
    ours, theirs = linen.Conv(features, size, **options), nn.Conv(features, size, **options)
    image = normal(shape)
    variables = theirs.init(jax.random.key(0), image)
    own_variables = ours.init(jax.random.key(0), image)
    jax.tree.map(np.testing.assert_array_equal, own_variables, variables)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # makes the bias non-zero
    expected = value_and_gradients(theirs.apply, variables, image)
    assert_close(value_and_gradients(ours.apply, variables, image), expected)


@pytest.mark.parametrize(("shape", "size", "features", "options"), LAYERS)
def test_nnx_conv_equals_flax(
    shape: tuple[int, ...], size: tuple[int, int], features: int, options: dict[str, Any]
) -> None:
    image, arguments = normal(shape), (shape[-1], features, size)
    found = []
    for kind in (stn_jax.nnx.Conv, nnx.Conv):
        graph, params = nnx.split(kind(*arguments, rngs=nnx.Rngs(0), **options))
        params = nnx.to_pure_dict(params)

        def apply(moved: Any, image: jax.Array, graph: Any = graph, params: Any = params) -> Any:
            model = nnx.merge(graph, nnx.State(jax.tree.map(nnx.Param, params)))
            nnx.update(model, moved)
            return model(image)

        moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
        found.append((params, *value_and_gradients(apply, moved, image)))
    jax.tree.map(np.testing.assert_array_equal, found[0][0], found[1][0])
    assert_close(found[0], found[1])


@pytest.mark.parametrize(("shape", "size", "features", "options"), LAYERS)
def test_both_implementations_agree(
    shape: tuple[int, ...], size: tuple[int, int], features: int, options: dict[str, Any]
) -> None:
    options = {
        name: value for name, value in options.items() if name not in ("padding", "use_bias")
    }
    groups = options.pop("feature_group_count", 1)
    arguments = (
        normal(shape),
        normal((*size, shape[-1] // groups, features), 1),
        convolution.pair_of("strides", options.get("strides", 1)),
        convolution.pair_of("kernel_dilation", options.get("kernel_dilation", 1)),
        groups,
    )
    assert_close(convolution._conv_by_matmul(*arguments), convolution._conv_by_xla(*arguments))


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("index", [1, 5, 8])
def test_cpu_gradient_uses_only_products_and_elementwise_operations(index: int) -> None:
    shape, size, features, options = LAYERS[index]
    conv = linen.Conv(features, size, **options)
    variables = conv.init(jax.random.key(0), jnp.zeros(shape))

    def loss(variables: Any, image: jax.Array) -> jax.Array:
        return (conv.apply(variables, image) ** 2).sum()

    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(variables, jnp.zeros(shape))
    operations = set(re.findall(r"[\]})] ([a-z][a-z\-]*)\(", lowered.compile().as_text()))
    assert not {"convolution", "scatter", "gather", "conditional", "sort"} & operations


def test_half_precision_is_summed_in_float32() -> None:
    ones = jnp.ones((1, 33, 33, 4), jnp.bfloat16)
    kernel = jnp.ones((32, 32, 4, 1), jnp.bfloat16)
    assert conv2d(ones, kernel, strides=2).item() == 4096
    traced = str(jax.make_jaxpr(lambda *a: convolution._conv_by_matmul(*a, (2, 2)))(ones, kernel))
    assert "preferred_element_type=float32" in traced


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 0}, r"strides must be positive; got \(0, 0\)"),
        ({"strides": (1, 2, 3)}, r"strides must be 2 non-negative integers; got \(1, 2, 3\)"),
        (
            {"kernel_dilation": 0.5},
            r"kernel_dilation must be 2 .*; got \(0.5, 0.5\)",
        ),
        ({"kernel_dilation": 3}, r"kernel must be at most .*\[5, 6\], with VALID .*; got \[7, 7\]"),
        ({"feature_group_count": 3}, "feature_group_count must divide the 4 channels and the 6"),
        ({"feature_group_count": 0}, "feature_group_count must be positive"),
        ({"padding": "CIRCULAR"}, "padding must be one of VALID, SAME, or .*; got 'CIRCULAR'"),
        ({"padding": -1}, "padding must be one of VALID, SAME, or .*; got -1"),
        ({"padding": (1, 2, 3)}, r"padding must be one of .*; got \(1, 2, 3\)"),
    ],
)
def test_invalid_option_raises(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv2d(IMAGE, jnp.zeros((3, 3, 4, 6)), **options)
