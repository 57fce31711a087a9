"""Convolutions inside a loop: values, programs and speed on a CPU."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from stn_jax import training
from stn_jax.training.loops import scan
from tests.training.linear_model import KEY, identity

IMAGES = jax.random.normal(KEY, (4, 8, 8, 2))
LAYERS = {
    "plain": nn.Conv(4, (3, 3)),
    "strided": nn.Conv(4, (3, 3), (2, 2), padding="VALID"),
    "dilated": nn.Conv(4, (3, 3), kernel_dilation=(2, 2)),
    "kernel_larger_than_image": nn.Conv(4, (9, 9)),
    "depthwise": nn.Conv(2, (3, 3), feature_group_count=2),
    "transposed": nn.ConvTranspose(4, (3, 3), (2, 2)),
    "one_dimension": nn.Conv(4, (3,)),
    "bfloat16": nn.Conv(4, (3, 3), dtype=jnp.bfloat16),
    "checkpointed": nn.checkpoint(nn.Conv)(4, (3, 3)),
}


def gradient_step(layer: nn.Module) -> Any:
    def loss(params: Any, images: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(layer.apply(params, images).astype(jnp.float32)))

    def body(params: Any, images: jax.Array) -> tuple[Any, jax.Array]:
        gradients, images_gradient = jax.grad(loss, (0, 1))(params, images)
        return jax.tree.map(lambda a, b: a - 0.01 * b, params, gradients), images_gradient

    return body


def convolutions(text: str) -> list[str]:
    """The dimension labels of the convolutions in a compiled program."""
    return re.findall(r" convolution\(.*dim_labels=([\w>-]+)", text)


@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_in_a_loop_use_the_fast_kernel(name: str, optimised: None) -> None:
    """And have the values of `lax.scan`."""
    body = gradient_step(LAYERS[name])
    params = LAYERS[name].init(KEY, IMAGES)
    batches = jnp.stack([IMAGES, -IMAGES])
    compiled = jax.jit(functools.partial(scan, body)).lower(params, batches).compile()
    labels = "b0f_0io->b0f" if name == "one_dimension" else "b01f_01io->b01f"
    assert set(convolutions(compiled.as_text())) <= {labels}
    expected = jax.jit(functools.partial(lax.scan, body))(params, batches)
    # Half precision is rounded after other sums.
    tolerance = 2e-2 if name == "bfloat16" else 1e-5
    chex.assert_trees_all_close(compiled(params, batches), expected, rtol=tolerance, atol=tolerance)


def test_steps_in_a_loop_equal_separate_steps_bit_for_bit(optimised: None) -> None:
    step = jax.jit(gradient_step(LAYERS["plain"]))
    params, batches = LAYERS["plain"].init(KEY, IMAGES), jnp.stack([IMAGES, -IMAGES])
    found, _ = jax.jit(functools.partial(scan, gradient_step(LAYERS["plain"])))(params, batches)
    for images in batches:
        params, _ = step(params, images)
    chex.assert_trees_all_equal(found, params)


def test_convolutions_with_channels_first_and_inside_other_functions() -> None:
    kernel = jax.random.normal(KEY, (4, 2, 3, 3))

    @jax.jit
    def convolve(images: jax.Array) -> jax.Array:
        return lax.conv(images, kernel, (1, 1), "SAME")

    def body(carry: jax.Array, images: jax.Array) -> Any:
        first = lax.cond(carry > 0, convolve, lambda x: 2 * convolve(x), images)
        return carry + 1, (first, lax.map(convolve, images[None]), jax.nn.relu(convolve(images)))

    images = jnp.moveaxis(jnp.stack([IMAGES, -IMAGES]), -1, 2)
    call = functools.partial(scan, body, jnp.zeros(()))
    text = jax.jit(call).lower(images).compile().as_text()
    assert convolutions(text)
    assert set(convolutions(text)) == {"b01f_01io->b01f"}
    expected = lax.scan(body, jnp.zeros(()), images)
    for found in (jax.jit(call)(images), call(images)):
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_loops_with_convolutions_are_differentiated_and_batched() -> None:
    def body(carry: jax.Array, images: jax.Array) -> Any:
        return carry + 1, jnp.sin(LAYERS["plain"].apply(params, images))

    params, images = LAYERS["plain"].init(KEY, IMAGES), jnp.stack([IMAGES, -IMAGES])

    def outputs(run: Any, images: jax.Array) -> jax.Array:
        return run(body, jnp.zeros(()), images)[1]

    found, expected = (functools.partial(outputs, run) for run in (scan, lax.scan))
    for transform in (jax.vmap, lambda f: jax.grad(lambda x: jnp.sum(f(x[0]) ** 2))):
        stacked = jnp.stack([images, 2 * images])
        chex.assert_trees_all_close(
            jax.jit(transform(found))(stacked),
            jax.jit(transform(expected))(stacked),
            rtol=1e-3,
            atol=1e-3,
        )


def test_loop_without_convolutions_is_that_of_jax() -> None:
    def body(carry: Any, x: jax.Array) -> Any:
        jax.debug.callback(lambda _: None, x)
        return {"sum": carry["sum"] + x, "key": carry["key"]}, jax.random.normal(carry["key"]) * x

    carry, xs = {"sum": jnp.zeros(3), "key": KEY}, jnp.ones((4, 3))
    programs = [
        jax.jit(lambda carry, xs, run=run: run(body, carry, xs)).lower(carry, xs).as_text()
        for run in (scan, lax.scan)
    ]
    assert programs[0] == programs[1]


def test_convolutions_for_other_devices_are_those_of_jax() -> None:
    body, params = gradient_step(LAYERS["plain"]), LAYERS["plain"].init(KEY, IMAGES)
    arguments = params, jnp.stack([IMAGES, -IMAGES])

    def dimension_numbers(run: Any) -> list[str]:
        traced = jax.jit(functools.partial(run, body)).trace(*arguments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        return re.findall(r"dim_numbers = (\S+)", text)

    assert len(dimension_numbers(scan)) == 3
    assert dimension_numbers(scan) == dimension_numbers(lax.scan)


@given(st.data())
@settings(max_examples=15)
def test_any_convolution_has_the_values_of_jax(data: st.DataObject) -> None:
    """Also with operands that XLA would swap, and with gradients of all settings."""
    draw, ndim = data.draw, data.draw(st.integers(1, 2))

    def numbers(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=ndim, max_size=ndim))

    groups, axes = draw(st.integers(1, 2)), "HW"[:ndim]
    first = draw(st.booleans())
    images, kernel = numbers(5, 7), numbers(1, 7)
    specs = (f"NC{axes}", f"OI{axes}") if first else (f"N{axes}C", f"{axes}IO")
    shapes = ((3, 2, *images), (2, 2 // groups, *kernel)) if first else (
        (3, *images, 2), (*kernel, 2 // groups, 2)
    )  # fmt: skip
    options: dict[str, Any] = {
        "window_strides": numbers(1, 3),
        "padding": list(zip(numbers(2, 4), numbers(1, 4), strict=True)),
        "lhs_dilation": numbers(1, 2),
        "dimension_numbers": (*specs, specs[0]),
        "feature_group_count": groups,
    }

    def body(kernel: jax.Array, images: jax.Array) -> Any:
        def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
            return lax.conv_general_dilated(images, kernel, **options)

        output, transpose = jax.vjp(convolve, images, kernel)
        images_gradient, kernel_gradient = transpose(jnp.cos(output))
        return kernel - 0.01 * kernel_gradient, (output, images_gradient)

    keys = jax.random.split(KEY)
    batches = jax.random.normal(keys[0], (2, *shapes[0]))
    start = jax.random.normal(keys[1], shapes[1])
    chex.assert_trees_all_close(
        jax.jit(functools.partial(scan, body))(start, batches),
        jax.jit(functools.partial(lax.scan, body))(start, batches),
        rtol=1e-3,
        atol=1e-3,
    )


def test_kernel_gradient_of_images_smaller_than_the_output() -> None:
    """XLA swaps its operands, and then the padding is negative: jax 0.10 needs it cropped."""
    batches, start = jax.random.normal(KEY, (2, 3, 6, 2)), jax.random.normal(KEY, (4, 2, 2))

    def body(kernel: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(kernel: jax.Array) -> jax.Array:
            specs = ("NWC", "WIO", "NWC")
            output = lax.conv_general_dilated(images, kernel, (1,), [(2, 4)], None, None, specs)
            return jnp.sum(jnp.sin(output))

        return kernel, jax.grad(loss)(kernel)

    _, actual = jax.jit(functools.partial(scan, body))(start, batches)
    _, expected = jax.jit(functools.partial(lax.scan, body))(start, batches)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)  # rounding of 27 products


def test_convolution_without_spatial_axes_has_the_values_of_jax() -> None:
    batches, kernel = jax.random.normal(KEY, (2, 3, 4)), jax.random.normal(KEY, (5, 4))
    numbers = lax.ConvDimensionNumbers((0, 1), (0, 1), (0, 1))

    def body(carry: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return carry, lax.conv_general_dilated(images, carry, (), [], dimension_numbers=numbers)

    actual, expected = (loop(body, kernel, batches)[1] for loop in (scan, lax.scan))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_loop_runs_without_jit_if_that_is_disabled() -> None:
    seen = []

    def body(carry: jax.Array, x: jax.Array) -> Any:
        seen.append(float(x))  # fails for a traced array
        return carry + x, x

    with jax.disable_jit():
        total, _ = scan(body, jnp.zeros(()), jnp.arange(3.0))
    assert (float(total), seen) == (3.0, [0.0, 1.0, 2.0])


def test_fit_and_evaluate_use_the_fast_kernel(optimised: None) -> None:
    def apply(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        transposed = jnp.swapaxes(images, 1, 3)
        filtered = lax.conv(transposed, jnp.ones((2, 2, 3, 3)), (1, 1), "SAME")
        features = nn.Conv(3, (3, 3)).apply(params, jnp.swapaxes(filtered, 1, 3))
        return features.mean((1, 2)), None

    objective, optimizer = training.classification(apply), optax.sgd(0.1)
    state = training.init_state(KEY, nn.Conv(3, (3, 3)).init(KEY, IMAGES), optimizer)
    data = {"image": IMAGES, "label": jnp.arange(4) % 3}
    fit = functools.partial(training.fit, objective, optimizer, identity)
    evaluate = functools.partial(training.evaluate, objective, identity, batch_size=2)
    for function, arguments in (
        (functools.partial(fit, num_epochs=2, batch_size=2), (state, data)),
        (evaluate, (KEY, state.params, data)),
    ):
        text = jax.jit(function).lower(*arguments).compile().as_text()
        assert set(convolutions(text)) == {"b01f_01io->b01f"}
