"""Spatial transformers and networks as modules: initial values, places in a network, outputs.

Modules are jitted, because compiling each operation on its own takes longer.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stn_jax import transforms
from stn_jax.linen import (
    CNN,
    FCN,
    AveragePool,
    CNNLocalisationNetwork,
    ConvBlock,
    Dropout,
    FCNLocalisationNetwork,
    Head,
    ParallelTransformers,
    SpatialTransformer,
    SpatialTransformerNetwork,
    TutorialClassifier,
    TutorialLocalisationNetwork,
    is_localisation,
)
from tests.linen.initialise import init

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (3, 28, 28, 1))


def transformer(transform: transforms.Transform = transforms.affine, **options) -> nn.Module:
    return SpatialTransformer(FCNLocalisationNetwork((8,)), transform, **options)


def init_and_apply(module: nn.Module, images: jax.Array = IMAGES, **options: Any) -> Any:
    """Applies a module with its initial parameters."""
    apply = jax.jit(functools.partial(module.apply, **options))
    return apply(init(module, images), images)


@pytest.mark.parametrize(
    "localisation",
    [FCNLocalisationNetwork(), CNNLocalisationNetwork(), TutorialLocalisationNetwork()],
    ids=lambda module: type(module).__name__,
)
@pytest.mark.parametrize(
    "transform",
    [transforms.affine, transforms.projective, transforms.thin_plate_spline()],
    ids=lambda t: t.name,
)
def test_initial_transformation_is_exactly_the_identity(
    localisation: nn.Module, transform: transforms.Transform
) -> None:
    module = SpatialTransformer(localisation=localisation, transform=transform)
    np.testing.assert_array_equal(init_and_apply(module)[0], IMAGES)


def test_regression_has_initial_gradients() -> None:
    module = transformer()
    target = jnp.roll(IMAGES, 1, axis=2)

    @jax.jit
    @jax.grad
    def gradients_of(params: dict) -> jax.Array:
        return jnp.sum((module.apply({"params": params}, IMAGES)[0] - target) ** 2)

    gradients = gradients_of(init(module, IMAGES)["params"])
    regression = gradients["localisation_regression"]
    assert np.abs(regression["bias"]).min() > 0
    assert np.abs(regression["kernel"]).max() > 0


def test_initial_theta_replaces_the_identity() -> None:
    start = (0.5, 0.2, -0.2)
    module = transformer(transforms.translation_scale, initial_theta=start)
    _, found = init_and_apply(module)
    np.testing.assert_allclose(found["theta"], np.tile(start, (3, 1)), rtol=1e-6)


def test_output_shape_fill_and_intermediates() -> None:
    module = transformer(output_shape=(14, 20), fill=-0.5, initial_theta=(1, 0, 9, 0, 1, 0))
    output, found = init_and_apply(module)
    assert {name: value.shape for name, value in found.items()} == {
        "theta": (3, 6),
        "grid": (3, 14, 20, 2),
        "output": (3, 14, 20, 1),
    }
    np.testing.assert_array_equal(output, -0.5)  # theta samples far outside the image


def test_3d_transformations_warp_volumes() -> None:
    volumes = jax.random.normal(KEY, (2, 5, 6, 7, 1))
    np.testing.assert_array_equal(
        init_and_apply(transformer(transforms.affine_3d), volumes)[0], volumes
    )


def test_half_precision_images_keep_float32_theta() -> None:
    module = SpatialTransformer(FCNLocalisationNetwork(dtype=jnp.bfloat16), transforms.affine)
    images = IMAGES.astype(jnp.bfloat16)
    output, found = init_and_apply(module, images)
    assert found["theta"].dtype == jnp.float32
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(output, images)


STACKS = {
    "in front": (lambda: (transformer(), CNN(features=(4, 4))), 1),
    "none": (lambda: (FCN(),), 0),
    "in series": (lambda: (transformer(), transformer(), FCN()), 2),
    "in parallel": (lambda: (ParallelTransformers([transformer(), transformer()]), FCN()), 2),
    "between layers": (lambda: (ConvBlock(4, 9), transformer(), ConvBlock(4, 7), Head(10)), 1),
    "shrinking": (lambda: (transformer(output_shape=(56, 56)), AveragePool(2), FCN()), 1),
}


@pytest.mark.parametrize("name", STACKS)
def test_transformers_at_any_place_of_a_network(name: str) -> None:
    make, count = STACKS[name]
    logits, found = init_and_apply(SpatialTransformerNetwork(make()))
    assert logits.shape == (3, 10)
    assert list(found) == [f"transformer_{i}" for i in range(count)]
    for each in found.values():
        assert set(each) == {"theta", "grid", "output"}


NETWORKS = [
    (SpatialTransformer(FCNLocalisationNetwork(), transform, mode=mode), FCN())
    for transform in (transforms.affine, transforms.thin_plate_spline())
    for mode in ("nearest", "bilinear", "bicubic")
] + [
    (SpatialTransformer(CNNLocalisationNetwork(), transforms.affine), FCN()),
    (SpatialTransformer(TutorialLocalisationNetwork(), transforms.affine), TutorialClassifier()),
    *(make() for make, _ in STACKS.values()),
]


@pytest.mark.parametrize("stages", NETWORKS, ids=range(len(NETWORKS)))
def test_empty_batch_gives_empty_output(stages: tuple[nn.Module, ...]) -> None:
    network = SpatialTransformerNetwork(stages)
    variables = jax.eval_shape(network.init, KEY, IMAGES)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)

    def loss(params: dict) -> tuple[jax.Array, Any]:
        logits, found = network.apply({"params": params}, IMAGES[:0])
        return jnp.sum(logits), (logits, found)

    gradients, (logits, found) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert logits.shape == (0, 10)
    assert all(each["theta"].shape[0] == 0 for each in found.values())
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf, 0)


def test_single_image_raises(unchecked: None) -> None:
    for module, shape, expected in (
        (transformer(), (12, 10, 2), r"\[b, h, w, c\]"),
        (transformer(transforms.affine_3d), (2, 12, 10, 2), r"\[b, d, h, w, c\]"),
    ):
        with pytest.raises(ValueError, match=rf"images must have shape {expected}; got \[.*12, "):
            jax.eval_shape(module.init, KEY, jnp.zeros(shape))


def test_network_may_be_a_stage_of_another() -> None:
    inner = SpatialTransformerNetwork((transformer(), transformer(transforms.rotation)))
    outer = SpatialTransformerNetwork((transformer(), inner, FCN(10)))
    logits, intermediates = init_and_apply(outer)
    assert logits.shape == (3, 10)
    counts = [each["theta"].shape[1] for each in intermediates.values()]
    assert (list(intermediates), counts) == ([f"transformer_{i}" for i in range(3)], [6, 6, 1])


def test_float64_features_give_float64_theta(x64: None) -> None:
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)))
    module = transformer(output_shape=(2, 2))
    params = init(module, images)["params"]
    regression = params["localisation_regression"]
    params["localisation_regression"] = regression | {"kernel": regression["kernel"] + 0.1}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

    @jax.jit
    def theta(params: Any) -> jax.Array:
        found = module.apply({"params": params}, images)
        return found[1]["theta"]

    assert theta(wide).dtype == jnp.float64
    moved = jax.tree.map(lambda leaf: leaf + 1e-9, wide)
    along = jax.jvp(theta, (wide,), (jax.tree.map(jnp.ones_like, wide),))[1]
    np.testing.assert_allclose(theta(moved) - theta(wide), 1e-9 * along, rtol=1e-5)


def test_parallel_transformers_stack_channels() -> None:
    module = ParallelTransformers([transformer(), transformer()])
    two_channels = jnp.concatenate([IMAGES, -IMAGES], axis=-1)
    expected = jnp.concatenate([two_channels] * 2, axis=-1)
    np.testing.assert_array_equal(init_and_apply(module, two_channels)[0], expected)


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (FCN(), 28 * 28 * 128 + 128 + 128 * 128 + 128 + 1290),
        (CNN(), 9 * 9 * 32 + 32 + 7 * 7 * 32 * 32 + 32 + 2 * 2 * 32 * 10 + 10),
        (TutorialClassifier(), 260 + 5020 + 320 * 50 + 50 + 510),
        (TutorialLocalisationNetwork(), 7 * 7 * 8 + 8 + 5 * 5 * 8 * 10 + 10 + 90 * 32 + 32),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_number_of_parameters(module: nn.Module, count: int) -> None:
    params = jax.eval_shape(module.init, KEY, IMAGES)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_localisation_parameters_are_found_by_path() -> None:
    network = SpatialTransformerNetwork((transformer(), FCN()))
    params = jax.eval_shape(network.init, KEY, IMAGES)["params"]
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: is_localisation(path), params)
    assert all(jax.tree.leaves(chosen["stages_0"]))
    assert not any(jax.tree.leaves(chosen["stages_1"]))


def test_localisation_parameters_are_found_in_compact_modules() -> None:
    class Network(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array) -> jax.Array:
            transformer = SpatialTransformer(CNNLocalisationNetwork(), transforms.affine)
            return FCN()(transformer(images)[0])

    params = jax.eval_shape(Network().init, KEY, IMAGES)["params"]
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: is_localisation(path), params)
    assert not any(jax.tree.leaves(chosen.pop("FCN_0")))
    assert len(chosen) == 2  # the network and its regression
    assert all(jax.tree.leaves(chosen))


def test_dropout_is_active_only_with_a_key() -> None:
    ones = jnp.ones((2, 4, 4, 50))
    plain, by_channel = Dropout(0.5), Dropout(0.5, by_channel=True)
    np.testing.assert_array_equal(plain.apply({}, ones), ones)
    dropped = plain.apply({}, ones, rngs={"dropout": KEY})
    assert set(np.unique(dropped)) == {0.0, 2.0}
    channels = np.asarray(by_channel.apply({}, ones, rngs={"dropout": KEY}))
    assert set(np.unique(channels)) == {0.0, 2.0}
    assert (channels == channels[:, :1, :1]).all()


@pytest.mark.parametrize("by_channel", [False, True])
def test_dropout_rate_may_be_traced(by_channel: bool) -> None:
    ones, rngs = jnp.ones((2, 4, 4, 50)), {"dropout": KEY}

    def drop(rate: float | jax.Array) -> jax.Array:
        return Dropout(rate, by_channel).apply({}, ones, rngs=rngs)

    for rate in (0.0, 0.3):
        np.testing.assert_allclose(jax.jit(drop)(rate), drop(rate), rtol=1e-6)
    np.testing.assert_array_equal(drop(0.0), ones)
    np.testing.assert_allclose(np.mean(drop(0.3) == 0), 0.3, atol=0.1)


def test_bfloat16_networks_keep_float32_parameters_and_logits() -> None:
    for module in (FCN(dtype=jnp.bfloat16), CNN(dtype=jnp.bfloat16)):
        logits, variables = jax.eval_shape(module.init_with_output, KEY, IMAGES)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        assert logits.dtype == jnp.float32


def test_vmapped_network_equals_each_member() -> None:
    network = SpatialTransformerNetwork((transformer(), CNN(features=(4, 4))))
    keys = jax.random.split(KEY, 3)
    members = jax.vmap(lambda key: init(network, IMAGES, key))(keys)
    logits, _ = jax.jit(jax.vmap(network.apply, in_axes=(0, None)))(members, IMAGES)
    alone, _ = jax.jit(network.apply)(init(network, IMAGES, keys[1]), IMAGES)
    np.testing.assert_allclose(logits[1], alone, atol=1e-5)


def test_transformer_inside_an_nnx_model() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.transformer = nnx.bridge.ToNNX(transformer(), rngs=rngs).lazy_init(IMAGES)
            self.linear = nnx.Linear(28 * 28, 10, rngs=rngs)

        def __call__(self, images: jax.Array) -> jax.Array:
            return self.linear(self.transformer(images)[0].reshape(len(images), -1))

    model = Model(nnx.Rngs(0))
    gradients = nnx.jit(nnx.grad(lambda model: jnp.sum(model(IMAGES) ** 2)))(model)
    regression = gradients["transformer"]["localisation_regression"]
    assert model(IMAGES).shape == (3, 10)
    assert np.abs(regression["bias"][...]).min() > 0


def test_output_shape_may_be_an_array(unchecked: None) -> None:
    module = transformer(output_shape=np.asarray([14, 20]))
    (output, _), _ = jax.eval_shape(module.init_with_output, KEY, IMAGES)
    assert output.shape == (3, 14, 20, 1)


class Flat(nn.Module):
    """A localisation network that returns one number per example, without a feature axis."""

    def __call__(self, images: jax.Array) -> jax.Array:
        return images.mean(axis=(1, 2, 3))


class Pooled(nn.Module):
    """A localisation network that averages over the batch."""

    def __call__(self, images: jax.Array) -> jax.Array:
        return images.mean(axis=(0, 1, 2))[None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transformer(output_shape=()), r"output_shape must be 2 .* integers; got \(\)"),
        (
            lambda: transformer(initial_theta=(1.0, 0.0)),
            r"initial_theta must have shape \[6\]; got \[2\]",
        ),
        (
            lambda: SpatialTransformer(Flat(), transforms.affine),
            r"localisation must return features of shape \[3, f\]; got \[3\]",
        ),
        (
            lambda: SpatialTransformer(Pooled(), transforms.affine),
            r"localisation must return features of shape \[3, f\]; got \[1, 1\]",
        ),
        (
            lambda: SpatialTransformer(SpatialTransformerNetwork([FCN()]), transforms.affine),
            r"localisation must return features of shape \[3, f\]; got tuple",
        ),
        (
            lambda: ParallelTransformers([]),
            "transformers must hold at least one transformer; got none",
        ),
        (
            lambda: ParallelTransformers([transformer(), transformer(output_shape=(9, 8))]),
            r"transformers must have outputs of the same shape; got \[28, 28\] and \[9, 8\]",
        ),
        (lambda: transformer("affine"), "transform must be one of stn_jax.transforms, .*'affine'"),
        (
            lambda: transformer(transforms.thin_plate_spline),
            "or made by calling thin_plate_spline; got <function thin_plate_spline",
        ),
    ],
)
def test_invalid_argument_raises(
    make: Callable[[], nn.Module], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make().init, KEY, IMAGES)
