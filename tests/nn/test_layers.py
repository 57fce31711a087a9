"""The layers equal those of `flax.linen`, and compile to fast programs on a CPU."""

import functools
import operator
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax.linen import Conv
from stn_jax.nn import avg_pool, conv2d, convolution, max_pool
from tests.linen.initialise import init

# (image shape, kernel size, features, padding): layers of the tutorial's and the paper's networks,
# even kernels, output widths that no span divides (29 and 37), a kernel as large as the image, one
# pixel, more features than a product needs for full speed, and a kernel larger than the image.
CONVS = [
    ((2, 28, 28, 1), (7, 7), 8, "VALID"),
    ((2, 12, 12, 10), (5, 5), 20, "VALID"),
    ((2, 10, 10, 32), (7, 7), 32, "VALID"),
    ((1, 13, 29, 3), (4, 3), 5, "SAME"),
    ((2, 6, 41, 2), (1, 5), 3, "VALID"),
    ((3, 5, 5, 20), (5, 5), 20, "VALID"),
    ((2, 7, 9, 3), (1, 1), 4, "SAME"),
    ((1, 6, 8, 4), (3, 3), 130, "SAME"),
    ((1, 3, 4, 2), (7, 6), 3, "SAME"),
]
POOLS = [
    ((2, 8, 6, 3), (2, 2)),
    ((2, 7, 9, 3), (2, 2)),
    ((1, 9, 10, 2), (3, 2)),
    ((5, 5, 1), (5, 4)),
]


def normal(shape: tuple[int, ...], seed: int = 0, dtype=jnp.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def our_and_flax_conv(size, features, **options):
    return Conv(features, size, **options), nn.Conv(features, size, **options)


def value_and_pullback(function, *arguments):
    """Returns a function's value and its gradients for random cotangents, in one program."""

    def run(weights, *arguments):
        value, vjp = jax.vjp(function, *arguments)
        return value, vjp(weights)

    value = jax.eval_shape(function, *arguments)
    return jax.jit(run)(normal(value.shape, 2).astype(value.dtype), *arguments)


def assert_close(actual, expected, tolerance):
    """Compares trees, with a tolerance relative to the largest value of each array."""
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(
            a, e, rtol=0, atol=tolerance * max(1e-30, np.abs(e).max())
        ),
        actual,
        expected,
    )


@pytest.mark.parametrize(("shape", "size", "features", "padding"), CONVS)
def test_conv_equals_flax(shape, size, features, padding):
    ours, theirs = our_and_flax_conv(size, features, padding=padding)
    image = normal(shape)
    variables = init(theirs, image)
    own_variables = init(ours, image)
    assert jax.tree.structure(own_variables) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, own_variables, variables)
    variables = jax.tree.map(lambda p: p + 0.1, variables)  # makes the bias non-zero
    expected = value_and_pullback(theirs.apply, variables, image)
    actual = value_and_pullback(ours.apply, variables, image)
    assert actual[0].dtype == jnp.float32
    assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize(("shape", "size", "features", "padding"), CONVS[3:5])
def test_conv_equals_flax_in_double_precision(x64, shape, size, features, padding):
    ours, theirs = our_and_flax_conv(size, features, padding=padding, param_dtype=jnp.float64)
    image = normal(shape, dtype=jnp.float64)
    variables = init(theirs, image)
    expected = value_and_pullback(theirs.apply, variables, image)
    actual = value_and_pullback(ours.apply, variables, image)
    assert actual[0].dtype == jnp.float64
    assert_close(actual, expected, 1e-13)


def test_conv_without_bias_and_any_batch_axes():
    ours, theirs = our_and_flax_conv((3, 3), 4, use_bias=False)
    image = normal((6, 7, 2))
    variables = init(theirs, image)
    assert list(init(ours, image)["params"]) == ["kernel"]
    assert_close(ours.apply(variables, image), theirs.apply(variables, image), 1e-5)
    batches = normal((2, 3, 6, 7, 2))
    assert_close(ours.apply(variables, batches), theirs.apply(variables, batches), 1e-5)


def test_empty_batch():
    assert conv2d(jnp.zeros((0, 5, 5, 1)), jnp.zeros((3, 3, 1, 2))).shape == (0, 3, 3, 2)
    assert max_pool(jnp.zeros((0, 4, 4, 1))).shape == (0, 2, 2, 1)


def test_both_implementations_of_convolution_agree():
    image, kernel = normal((2, 9, 11, 3)), normal((3, 4, 3, 5), 1)
    assert_close(
        convolution._conv_by_matmul(image, kernel), convolution._conv_by_xla(image, kernel), 1e-5
    )


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 1)])
def test_implementation_depends_on_the_platform(platform, convolutions):
    exported = jax.export.export(jax.jit(conv2d), platforms=[platform])
    module = exported(jnp.zeros((2, 9, 9, 1)), jnp.zeros((3, 3, 1, 2))).mlir_module()
    assert module.count("stablehlo.convolution") == convolutions


@pytest.mark.parametrize("function", ["conv", "max", "avg"])
def test_forward_and_reverse_mode_agree(x64, function):
    image, kernel = normal((2, 7, 9, 3), 0, jnp.float64), normal((3, 4, 3, 5), 1, jnp.float64)
    f = {"conv": conv2d, "max": lambda x, _: max_pool(x), "avg": lambda x, _: avg_pool(x)}[function]
    tangents = normal(image.shape, 2, jnp.float64), normal(kernel.shape, 3, jnp.float64)
    output, tangent = jax.jit(functools.partial(jax.jvp, f))((image, kernel), tangents)
    cotangent = normal(output.shape, 4, jnp.float64)
    pulled = jax.jit(lambda *at: jax.vjp(f, *at)[1](cotangent))(image, kernel)
    expected = sum(np.vdot(c, t) for c, t in zip(pulled, tangents, strict=True))
    np.testing.assert_allclose(np.vdot(cotangent, tangent), expected, rtol=1e-12)
    step = 1e-6
    moved = jax.jit(f)(*(p + step * t for p, t in zip((image, kernel), tangents, strict=True)))
    assert_close((moved - output) / step, tangent, 1e-4)


def test_second_derivative(x64):
    image, kernel = normal((1, 5, 5, 1), 0, jnp.float64), normal((3, 3, 1, 2), 1, jnp.float64)
    pooled = jax.hessian(lambda k: (max_pool(conv2d(image, k)[:, :2, :2]) ** 2).sum())
    expected = jax.hessian(
        lambda k: (nn.max_pool(convolution._conv_by_xla(image, k)[:, :2, :2], (2, 2)) ** 2).sum()
    )
    assert_close(jax.jit(pooled)(kernel), jax.jit(expected)(kernel), 1e-12)


@pytest.mark.parametrize("mapped_image", [None, 0])
def test_vmap_over_kernels_equals_each_member(mapped_image):
    conv = Conv(8, (5, 5), padding="VALID")
    images = normal((3, 2, 12, 12, 2))
    members = jax.vmap(conv.init, (0, None))(jax.random.split(jax.random.key(0), 3), images[0])

    def gradient(variables, image):
        return jax.grad(lambda *a: (max_pool(conv.apply(*a)) ** 2).sum(), (0, 1))(variables, image)

    given = images if mapped_image == 0 else images[0]
    together = jax.jit(jax.vmap(gradient, (0, mapped_image)))(members, given)
    for i in range(3):
        member, of_member = jax.tree.map(operator.itemgetter(i), (members, together))
        alone = jax.jit(gradient)(member, images[i if mapped_image == 0 else 0])
        assert_close(of_member, alone, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_with_float32_parameters(dtype):
    half, single = Conv(32, (7, 7), dtype=dtype), Conv(32, (7, 7))
    image = normal((2, 12, 12, 32))
    variables = init(half, image)
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    output, gradients = value_and_pullback(half.apply, variables, image)
    assert output.dtype == dtype
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.float32)}
    expected, expected_gradients = value_and_pullback(single.apply, variables, image)
    epsilon = float(jnp.finfo(dtype).eps)
    assert_close(output.astype(jnp.float32), expected, epsilon)
    assert_close(gradients, expected_gradients, 4 * epsilon)
    assert max_pool(output).dtype == avg_pool(output).dtype == dtype


def test_half_precision_is_summed_in_float32():
    # A running sum of ones stops at 256 in bfloat16.
    ones = jnp.ones((1, 32, 32, 4), jnp.bfloat16)
    assert conv2d(ones, jnp.ones((32, 32, 4, 1), jnp.bfloat16)).item() == 4096
    _, vjp = jax.vjp(lambda k: conv2d(ones, k), jnp.ones((1, 1, 4, 1), jnp.bfloat16))
    assert set(np.ravel(vjp(jnp.ones((1, 32, 32, 1), jnp.bfloat16))[0]).tolist()) == {1024.0}
    assert avg_pool(ones, (32, 32)).tolist() == [[[[1.0] * 4]]]
    # CPUs always sum in float32; other devices do so only if asked.
    traced = str(
        jax.make_jaxpr(convolution._conv_by_matmul)(ones, jnp.ones((3, 3, 4, 1), jnp.bfloat16))
    )
    assert "preferred_element_type=float32" in traced


@pytest.mark.parametrize(("shape", "window"), POOLS)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(max_pool, nn.max_pool), (avg_pool, nn.avg_pool)], ids=["max", "avg"]
)
def test_pool_equals_flax(ours, theirs, shape, window):
    image = normal(shape)
    expected = value_and_pullback(lambda x: theirs(x, window, strides=window), image)
    assert_close(value_and_pullback(lambda x: ours(x, window), image), expected, 1e-6)


@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
def test_max_pool_passes_the_gradient_of_a_tie_to_the_first_pixel(window):
    image = jax.random.randint(jax.random.key(0), (4, 12, 12, 5), 0, 3).astype(jnp.float32)
    expected = value_and_pullback(lambda x: nn.max_pool(x, window, strides=window), image)
    actual = value_and_pullback(lambda x: max_pool(x, window), image)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_max_pool_of_infinity_nan_and_integers():
    image = jnp.asarray([[-jnp.inf, -jnp.inf, 1.0, jnp.nan], [-jnp.inf, -jnp.inf, 2.0, 3.0]])
    pooled = max_pool(image[..., None])[0, :, 0]
    assert pooled[0] == -jnp.inf
    assert jnp.isnan(pooled[1])
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.full((2, 2, 1), -jnp.inf))
    assert gradient[..., 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert max_pool(jnp.arange(4).reshape(2, 2, 1)).tolist() == [[[3]]]


def gradient_hlo(in_scan: bool) -> str:
    convs = Conv(8, (5, 5), padding="VALID"), Conv(8, (3, 3))
    image = jnp.zeros((4, 16, 16, 1))
    first = convs[0].init(jax.random.key(0), image)
    second = convs[1].init(jax.random.key(0), jnp.zeros((4, 6, 6, 8)))

    def loss(variables, image):
        x = max_pool(nn.relu(convs[0].apply(variables[0], avg_pool(image, (1, 1)))))
        return (max_pool(convs[1].apply(variables[1], x)) ** 2).sum()

    def gradient(variables, image):
        return jax.grad(loss, (0, 1))(variables, image)

    def scanned(variables, image):
        def step(carry, _):
            return jax.tree.map(jnp.add, carry, gradient(*carry)), None

        return jax.lax.scan(step, (variables, image), None, length=3)[0]

    f = scanned if in_scan else gradient
    return jax.jit(f).lower((first, second), image).compile().as_text()


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("in_scan", [False, True])
def test_cpu_gradient_uses_only_products_and_elementwise_operations(in_scan):
    hlo = gradient_hlo(in_scan)
    operations = set(re.findall(r"[\]})] ([a-z][a-z\-]*)\(", hlo))
    assert {"dot", "divide"} <= operations, operations
    forbidden = {"convolution", "select-and-scatter", "scatter", "gather", "conditional", "sort"}
    assert not forbidden & operations
    assert ("while" in operations) == in_scan
    assert "__onednn$conv" not in hlo
    assert "Conv2D" not in hlo


@pytest.mark.parametrize(
    ("out_w", "kw", "features", "expected"),
    [
        (20, 9, 32, 4),
        (24, 5, 10, 6),
        (8, 5, 20, 4),
        (4, 7, 32, 4),
        (22, 7, 8, 11),
        (7, 5, 10, 7),
        (41, 5, 3, 5),
        (28, 1, 8, 1),
        (26, 3, 256, 1),
        (1, 5, 8, 1),
    ],
)
def test_outputs_per_window(out_w, kw, features, expected):
    assert convolution._outputs_per_window(out_w, kw, features) == expected


IMAGE, KERNEL = jnp.zeros((1, 5, 5, 2)), jnp.zeros((3, 3, 2, 4))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: conv2d(IMAGE, KERNEL, padding="FULL"),
            "padding must be one of VALID, SAME, or .*FULL",
        ),
        (lambda: conv2d(IMAGE[0, 0], KERNEL), r"image must have shape .*got \[5, 2\]"),
        (lambda: conv2d(IMAGE.astype(int), KERNEL), "image must be of a floating dtype; got int32"),
        (lambda: conv2d(IMAGE, KERNEL[:, :, :1]), r"kernel must have shape \[kh, kw, 2, f\]; got"),
        (lambda: conv2d(IMAGE, KERNEL[0]), "kernel must have shape"),
        (lambda: conv2d(IMAGE, KERNEL[:0]), "kernel must have shape"),
        (lambda: conv2d(IMAGE, KERNEL.astype(jnp.bfloat16)), "kernel must have .*float32; got bf"),
        (lambda: conv2d(IMAGE[:, :2], KERNEL), r"kernel must be at most .*\[2, 5\].*got \[3, 3\]"),
        (lambda: conv2d(IMAGE[:, :, :2], KERNEL), "kernel must be at most as large"),
        (lambda: max_pool(IMAGE, (0, 2)), r"window_shape must be positive; got \(0, 2\)"),
        (lambda: max_pool(IMAGE, (2,)), "window_shape must be 2 non-negative integers; got"),
        (lambda: max_pool(IMAGE, (2.5, 2)), "window_shape must be 2"),
        (lambda: max_pool(IMAGE, (6, 2)), r"window_shape must be at most .*\[5, 5\]; got \(6, 2\)"),
        (lambda: avg_pool(IMAGE, (2, 6)), "window_shape must be at most"),
        (lambda: avg_pool(IMAGE.astype(int)), "image must be of a floating dtype"),
        (lambda: max_pool(IMAGE[0, 0]), "image must have shape"),
        (lambda: Conv(0, (3, 3)).init(jax.random.key(0), IMAGE), "features must be positive; got"),
        (lambda: Conv(4, 3).init(jax.random.key(0), IMAGE), "kernel_size must be 2 .*; got 3"),
        (lambda: Conv(4, (3, 0)).init(jax.random.key(0), IMAGE), "kernel_size must be positive"),
        (lambda: Conv(4, (3, 3)).init(jax.random.key(0), IMAGE[0, 0]), "image must have shape"),
    ],
)
def test_invalid_argument_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()
