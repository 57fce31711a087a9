"""Transformers as modules: where they stand, what they start from, what they return.

Modules are compiled as a whole, which is quicker than operation by operation.
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
from stn_jax.nn import (
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
from tests.nn.initial import init

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (3, 28, 28, 1))


def transformer(transform: transforms.Transform = transforms.affine, **options) -> nn.Module:
    return SpatialTransformer(FCNLocalisationNetwork((8,)), transform, **options)


def at_start(module: nn.Module, images: jax.Array = IMAGES, **options: Any) -> Any:
    """What a module returns with its initial parameters."""
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
def test_starts_at_the_identity_exactly(
    localisation: nn.Module, transform: transforms.Transform
) -> None:
    module = SpatialTransformer(localisation=localisation, transform=transform)
    np.testing.assert_array_equal(at_start(module), IMAGES)


def test_every_parameter_of_the_regression_learns_from_the_start() -> None:
    module = transformer()
    target = jnp.roll(IMAGES, 1, axis=2)

    @jax.jit
    @jax.grad
    def gradients_of(params: dict) -> jax.Array:
        return jnp.sum((module.apply({"params": params}, IMAGES) - target) ** 2)

    gradients = gradients_of(init(module, IMAGES)["params"])
    regression = gradients["localisation_regression"]
    assert np.abs(regression["bias"]).min() > 0
    assert np.abs(regression["kernel"]).max() > 0


def test_initial_theta_replaces_the_identity() -> None:
    start = (0.5, 0.2, -0.2)
    module = transformer(transforms.translation_scale, initial_theta=start)
    _, found = at_start(module, method="with_intermediates")
    np.testing.assert_allclose(found["theta"], np.tile(start, (3, 1)), rtol=1e-6)


def test_output_shape_fill_and_intermediates() -> None:
    module = transformer(output_shape=(14, 20), fill=-0.5, initial_theta=(1, 0, 9, 0, 1, 0))
    output, found = at_start(module, method="with_intermediates")
    assert {name: value.shape for name, value in found.items()} == {
        "theta": (3, 6),
        "grid": (3, 14, 20, 2),
        "output": (3, 14, 20, 1),
    }
    np.testing.assert_array_equal(output, -0.5)  # theta looks far beyond the image


def test_volumes_take_3d_transformations() -> None:
    volumes = jax.random.normal(KEY, (2, 5, 6, 7, 1))
    np.testing.assert_array_equal(at_start(transformer(transforms.affine_3d), volumes), volumes)


def test_half_precision_images_keep_float32_theta() -> None:
    module = SpatialTransformer(FCNLocalisationNetwork(dtype=jnp.bfloat16), transforms.affine)
    images = IMAGES.astype(jnp.bfloat16)
    output, found = at_start(module, images, method="with_intermediates")
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
def test_transformers_anywhere_in_a_network(name: str) -> None:
    make, count = STACKS[name]
    logits, found = at_start(SpatialTransformerNetwork(make()))
    assert logits.shape == (3, 10)
    assert list(found) == [f"transformer_{i}" for i in range(count)]
    for each in found.values():
        assert set(each) == {"theta", "grid", "output"}


WHOLE = [
    (SpatialTransformer(FCNLocalisationNetwork(), transform, mode=mode), FCN())
    for transform in (transforms.affine, transforms.thin_plate_spline())
    for mode in ("nearest", "bilinear", "bicubic")
] + [
    (SpatialTransformer(CNNLocalisationNetwork(), transforms.affine), FCN()),
    (SpatialTransformer(TutorialLocalisationNetwork(), transforms.affine), TutorialClassifier()),
    *(make() for make, _ in STACKS.values()),
]


@pytest.mark.parametrize("stages", WHOLE, ids=range(len(WHOLE)))
def test_an_empty_batch_gives_an_empty_batch(stages: tuple[nn.Module, ...]) -> None:
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


def test_one_image_is_no_batch(unchecked: None) -> None:
    for module, shape, expected in (
        (transformer(), (12, 10, 2), r"\[b, h, w, c\]"),
        (transformer(transforms.affine_3d), (2, 12, 10, 2), r"\[b, d, h, w, c\]"),
    ):
        with pytest.raises(ValueError, match=rf"images must have shape {expected}; got \[.*12, "):
            jax.eval_shape(module.init, KEY, jnp.zeros(shape))


def test_a_network_is_a_stage_of_another() -> None:
    inner = SpatialTransformerNetwork((transformer(), transformer(transforms.rotation)))
    outer = SpatialTransformerNetwork((transformer(), inner, FCN(10)))
    logits, intermediates = at_start(outer)
    assert logits.shape == (3, 10)
    counts = [each["theta"].shape[1] for each in intermediates.values()]
    assert (list(intermediates), counts) == ([f"transformer_{i}" for i in range(3)], [6, 6, 1])


def test_float64_features_stay_so(x64: None) -> None:
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)))
    module = transformer(output_shape=(2, 2))
    params = init(module, images)["params"]
    regression = params["localisation_regression"]
    params["localisation_regression"] = regression | {"kernel": regression["kernel"] + 0.1}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

    def theta(params: Any) -> jax.Array:
        found = module.apply({"params": params}, images, method="with_intermediates")
        return found[1]["theta"]

    assert theta(wide).dtype == jnp.float64
    moved = jax.tree.map(lambda leaf: leaf + 1e-9, wide)
    along = jax.jvp(theta, (wide,), (jax.tree.map(jnp.ones_like, wide),))[1]
    np.testing.assert_allclose(theta(moved) - theta(wide), 1e-9 * along, rtol=1e-5)


def test_parallel_transformers_stack_channels() -> None:
    module = ParallelTransformers([transformer(), transformer()])
    two_channels = jnp.concatenate([IMAGES, -IMAGES], axis=-1)
    expected = jnp.concatenate([two_channels] * 2, axis=-1)
    np.testing.assert_array_equal(at_start(module, two_channels), expected)


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


def test_localisation_parameters_are_found_where_flax_names_them_after_their_class() -> None:
    class Network(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array) -> jax.Array:
            return FCN()(SpatialTransformer(CNNLocalisationNetwork(), transforms.affine)(images))

    params = jax.eval_shape(Network().init, KEY, IMAGES)["params"]
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: is_localisation(path), params)
    assert not any(jax.tree.leaves(chosen.pop("FCN_0")))
    assert len(chosen) == 2  # the network and its regression
    assert all(jax.tree.leaves(chosen))


def test_dropout_needs_its_key() -> None:
    ones = jnp.ones((2, 4, 4, 50))
    plain, by_channel = Dropout(0.5), Dropout(0.5, by_channel=True)
    np.testing.assert_array_equal(plain.apply({}, ones), ones)
    dropped = plain.apply({}, ones, rngs={"dropout": KEY})
    assert set(np.unique(dropped)) == {0.0, 2.0}
    channels = np.asarray(by_channel.apply({}, ones, rngs={"dropout": KEY}))
    assert set(np.unique(channels)) == {0.0, 2.0}
    assert (channels == channels[:, :1, :1]).all()


@pytest.mark.parametrize("by_channel", [False, True])
def test_dropout_takes_a_traced_rate(by_channel: bool) -> None:
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


def test_a_population_is_a_vmap() -> None:
    network = SpatialTransformerNetwork((transformer(), CNN(features=(4, 4))))
    keys = jax.random.split(KEY, 3)
    members = jax.vmap(lambda key: init(network, IMAGES, key))(keys)
    logits, _ = jax.jit(jax.vmap(network.apply, in_axes=(0, None)))(members, IMAGES)
    alone, _ = jax.jit(network.apply)(init(network, IMAGES, keys[1]), IMAGES)
    np.testing.assert_allclose(logits[1], alone, atol=1e-5)


def test_inside_an_nnx_model() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.transformer = nnx.bridge.ToNNX(transformer(), rngs=rngs).lazy_init(IMAGES)
            self.linear = nnx.Linear(28 * 28, 10, rngs=rngs)

        def __call__(self, images: jax.Array) -> jax.Array:
            return self.linear(self.transformer(images).reshape(len(images), -1))

    model = Model(nnx.Rngs(0))
    gradients = nnx.grad(lambda model: jnp.sum(model(IMAGES) ** 2))(model)
    regression = gradients["transformer"]["localisation_regression"]
    assert model(IMAGES).shape == (3, 10)
    assert np.abs(regression["bias"][...]).min() > 0


def test_the_output_shape_is_any_sequence(unchecked: None) -> None:
    module = transformer(output_shape=np.asarray([14, 20]))
    output, _ = jax.eval_shape(module.init_with_output, KEY, IMAGES)
    assert output.shape == (3, 14, 20, 1)


class Flat(nn.Module):
    """A localisation network that returns one number an example, without an axis of features."""

    def __call__(self, images: jax.Array) -> jax.Array:
        return images.mean(axis=(1, 2, 3))


class Pooled(nn.Module):
    """A localisation network that forgets which example is which."""

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
        (lambda: ParallelTransformers([]), "transformers must hold one at least; got none"),
        (
            lambda: ParallelTransformers([transformer(), transformer(output_shape=(9, 8))]),
            r"transformers must have outputs of one shape; got \[28, 28\] and \[9, 8\]",
        ),
        (lambda: transformer("affine"), "transform must be one of stn_jax.transforms, .*'affine'"),
        (
            lambda: transformer(transforms.thin_plate_spline),
            "or made by calling thin_plate_spline; got <function thin_plate_spline",
        ),
    ],
)
def test_errors(make: Callable[[], nn.Module], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make().init, KEY, IMAGES)
