"""NNX modules equal linen modules with the same parameters, and work under NNX's transforms."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import stn_jax.nnx
from stn_jax import linen, training, transforms
from stn_jax.nn import Warp
from tests.linen.initialise import init

KEY = jax.random.key(0)
SHAPE, VOLUME = (28, 28, 1), (8, 9, 10, 1)
# For each model: the shape of an example, and a function that makes it from a package of modules
# and a function that makes a module's arguments.
Make = Callable[[Any, "Arguments"], Any]


class Arguments:
    """The arguments that modules of one API take and those of the other do not."""

    def __init__(self, rngs: nnx.Rngs | None = None) -> None:
        self.rngs = rngs

    def shaped(self, shape: Any) -> tuple[Any, ...]:
        """The shape of the input, or the number of its features, which only NNX modules take."""
        return () if self.rngs is None else (shape,)

    def keys(self) -> dict[str, nnx.Rngs]:
        """The random keys, which only NNX modules take."""
        return {} if self.rngs is None else {"rngs": self.rngs}


def transformer(package: Any, given: Arguments, shape: Any = SHAPE, **options: Any) -> Any:
    localisation = package.FCNLocalisationNetwork(*given.shaped(shape), (8,), **given.keys())
    return package.SpatialTransformer(
        localisation, options.pop("transform", transforms.affine), **options, **given.keys()
    )


def series(package: Any, given: Arguments) -> Any:
    stages = (transformer(package, given), transformer(package, given, transform=SPLINE))
    cnn = package.CNN(*given.shaped(SHAPE), 10, (4, 4), **given.keys())
    return package.SpatialTransformerNetwork((*stages, cnn))


def between_layers(package: Any, given: Arguments) -> Any:
    return package.SpatialTransformerNetwork(
        (
            package.ConvBlock(*given.shaped(1), 4, 9, pool=1, **given.keys()),
            transformer(package, given, (20, 20, 4), output_shape=(8, 9), fill=(0, 1, 2, 3)),
            package.AveragePool(2),
            package.DenseHead(*given.shaped(4 * 4 * 4), 3, 5, dropout=0.5, **given.keys()),
        )
    )


def parallel(package: Any, given: Arguments) -> Any:
    transformers = [transformer(package, given, mode=mode) for mode in ("bilinear", "bicubic")]
    fcn = package.FCN(*given.shaped((28, 28, 2)), 10, (8,), **given.keys())
    inner = package.SpatialTransformerNetwork((package.ParallelTransformers(transformers), fcn))
    return package.SpatialTransformerNetwork((inner,))


def tutorial(package: Any, given: Arguments) -> Any:
    localisation = package.TutorialLocalisationNetwork(*given.shaped(SHAPE), **given.keys())
    first = package.SpatialTransformer(localisation, transforms.affine, **given.keys())
    second = package.TutorialClassifier(*given.shaped(SHAPE), **given.keys())
    return package.SpatialTransformerNetwork((first, second))


def projected(package: Any, given: Arguments) -> Any:
    localisation = package.VolumeLocalisationNetwork(*given.shaped(VOLUME), (8,), **given.keys())
    first = package.SpatialTransformer(localisation, transforms.affine_3d, **given.keys())
    fcn = package.FCN(*given.shaped((9, 10, 1)), 3, (5,), **given.keys())
    return package.SpatialTransformerNetwork((first, package.Projection(), fcn))


def st_cnn(package: Any, given: Arguments) -> Any:
    options = {"features": (4, 4, 8), **given.keys()}
    localisation = package.CNNLocalisationNetwork(*given.shaped(SHAPE), **options)
    return package.SpatialTransformer(localisation, transforms.translation_scale, **given.keys())


def iterative(package: Any, given: Arguments) -> Any:
    localisation = package.FCNLocalisationNetwork(*given.shaped(SHAPE), (8,), **given.keys())
    return package.IterativeTransformer(
        localisation, transforms.affine, num_iterations=2, output_shape=(8, 9), **given.keys()
    )


SPLINE = transforms.thin_plate_spline((3, 3))
MODELS = {
    "iterative": (SHAPE, iterative),
    "series": (SHAPE, series),
    "between layers": (SHAPE, between_layers),
    "parallel": (SHAPE, parallel),
    "tutorial": (SHAPE, tutorial),
    "projected": (VOLUME, projected),
    "st_cnn": (SHAPE, st_cnn),
}


def make_nnx(make: Make, seed: int = 0) -> Any:
    """An NNX model in evaluation mode."""
    model = make(stn_jax.nnx, Arguments(nnx.Rngs(seed)))
    model.eval()
    return model


def pure_params(model: nnx.Module) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def perturbed(params: Any) -> Any:
    """Parameters whose thetas are not the identity."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + 0.05 * rng.standard_normal(leaf.shape, np.float32), params
    )


def images_of(shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(KEY, (3, *shape))


def loss_and_result(model: Any, images: jax.Array) -> tuple[jax.Array, Any]:
    result = model(images)
    return jnp.sum(result[0] ** 2), result


def assert_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def check_equal(model: Any, module: nn.Module, params: Any, images: jax.Array) -> None:
    """Compares values and gradients of an NNX model and a linen module."""

    def linen_loss(params: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        return loss_and_result(lambda images: module.apply({"params": params}, images), images)

    graph, others = nnx.split(model, ...)

    def pure(params: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        merged = nnx.merge(graph, others, copy=True)
        nnx.update(merged, params)
        return loss_and_result(merged, images)

    expected = jax.jit(jax.value_and_grad(linen_loss, has_aux=True))(params, images)
    assert_equal(jax.jit(jax.value_and_grad(pure, has_aux=True))(params, images), expected)


@pytest.mark.parametrize("name", MODELS)
def test_linen_parameters_load_into_nnx(name: str) -> None:
    shape, make = MODELS[name]
    images, module, model = images_of(shape), make(linen, Arguments()), make_nnx(make)
    params = perturbed(init(module, images)["params"])
    assert jax.tree.map(jnp.shape, pure_params(model)) == jax.tree.map(jnp.shape, params)
    nnx.update(model, params)
    assert_equal(pure_params(model), params)
    check_equal(model, module, params, images)


@pytest.mark.parametrize("name", MODELS)
def test_nnx_parameters_are_those_of_the_linen_module(name: str) -> None:
    shape, make = MODELS[name]
    images, module, model = images_of(shape), make(linen, Arguments()), make_nnx(make, seed=1)
    expected = nnx.jit(lambda model, images: model(images))(model, images)
    params = pure_params(model)
    found = jax.jit(lambda params, images: module.apply({"params": params}, images))(params, images)
    assert_equal(found, expected)


def test_initial_values_have_the_same_distributions() -> None:
    for _, make in MODELS.values():
        images = images_of(MODELS["projected"][0] if make is projected else SHAPE)
        ours = pure_params(make_nnx(make))
        theirs = init(make(linen, Arguments()), images)["params"]
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            if a.size > 100:
                np.testing.assert_allclose(np.std(a), np.std(b), rtol=0.4)
            elif a.ndim == 1:
                np.testing.assert_array_equal(a, b)


def test_initial_transformation_is_exactly_the_identity() -> None:
    images = images_of(SHAPE)
    output, found = make_nnx(transformer)(images)
    np.testing.assert_array_equal(output, images)
    assert found["grid"].shape == (3, 28, 28, 2)


def test_initial_theta_replaces_the_identity() -> None:
    start = (0.5, 0.2, -0.2)
    model = transformer(
        stn_jax.nnx,
        Arguments(nnx.Rngs(0)),
        transform=transforms.translation_scale,
        initial_theta=start,
        output_shape=[4, 5],
    )
    output, found = model(images_of(SHAPE))
    np.testing.assert_allclose(found["theta"], np.tile(start, (3, 1)), rtol=1e-6)
    assert output.shape == (3, 4, 5, 1)


def test_jit_grad_and_optimizer_train_a_model() -> None:
    model, images = make_nnx(series), images_of(SHAPE)
    labels = jnp.asarray([0, 1, 2])
    scale = training.scale_updates(0.5, stn_jax.nnx.is_localisation)
    optimizer = nnx.Optimizer(model, optax.chain(optax.adam(1e-2), scale), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: nnx.Optimizer) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            logits, _ = model(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    before = pure_params(model)
    losses = [float(step(model, optimizer)) for _ in range(5)]
    assert losses[-1] < losses[0]
    # Adam's first update has the size of the learning rate.
    fresh = make_nnx(series)
    step(fresh, nnx.Optimizer(fresh, optax.chain(optax.adam(1e-2), scale), wrt=nnx.Param))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), pure_params(fresh), before)
    regression = moved["stages_0"]["localisation_regression"]
    np.testing.assert_allclose(regression["bias"], 5e-3, rtol=1e-3)
    np.testing.assert_allclose(moved["stages_2"]["Head_0"]["Dense_0"]["bias"], 1e-2, rtol=1e-3)


def test_split_and_merge_restore_a_model() -> None:
    model, images = make_nnx(tutorial), images_of(SHAPE)
    graph, params, others = nnx.split(model, nnx.Param, ...)
    assert jax.tree.leaves(others)  # the keys of dropout
    np.testing.assert_array_equal(nnx.merge(graph, params, others)(images)[0], model(images)[0])
    assert hash(graph) == hash(nnx.split(make_nnx(tutorial))[0])


def test_vmapped_models_equal_each_member() -> None:
    images = images_of(SHAPE)

    @nnx.vmap
    def make(key: jax.Array) -> Any:
        return transformer(stn_jax.nnx, Arguments(nnx.Rngs(key)))

    models = make(jax.random.split(KEY, 2))
    state = nnx.state(models, nnx.Param)
    nnx.update(models, perturbed(nnx.to_pure_dict(state)))
    outputs = nnx.jit(nnx.vmap(lambda model: model(images)[0]))(models)
    graph, states = nnx.split(models)
    for i in range(2):
        member = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], states))
        np.testing.assert_allclose(outputs[i], nnx.jit(lambda m: m(images)[0])(member), atol=1e-4)


def test_intermediates_are_sown_in_both_apis() -> None:
    images = images_of(SHAPE)
    module, model = series(linen, Arguments()), make_nnx(series)
    variables = init(module, images)
    assert set(variables) == {"params"}
    (_, found), sown = module.apply(variables, images, mutable=["intermediates"])
    nnx.update(model, variables["params"])
    (_, nnx_found), captured = nnx.capture(nnx.Intermediate)(model)(images)
    captured = nnx.to_pure_dict(captured)
    for i in range(2):
        for name, value in found[f"transformer_{i}"].items():
            stage = f"stages_{i}"
            np.testing.assert_array_equal(sown["intermediates"][stage][name][0], value)
            np.testing.assert_array_equal(captured[stage][name][0], value)
            np.testing.assert_array_equal(nnx_found[f"transformer_{i}"][name], value)
    model(images)
    assert not jax.tree.leaves(nnx.state(model, nnx.Intermediate))


def test_localisation_parameters_are_found_in_every_kind_of_path() -> None:
    model = make_nnx(series)
    state = nnx.state(model, nnx.Param)
    trees = (
        state,
        nnx.to_pure_dict(state),
        model,  # paths of attributes
    )
    for tree in trees:
        found = jax.tree_util.tree_leaves_with_path(tree)
        chosen = [path for path, _ in found if stn_jax.nnx.is_localisation(path)]
        assert len(chosen) == 8  # two transformers, each with two layers of two arrays
    flat = nnx.to_flat_state(state)
    assert sum(stn_jax.nnx.is_localisation(path) for path, _ in flat) == 8
    localisation = nnx.state(model, lambda path, _: stn_jax.nnx.is_localisation(path))
    assert len(jax.tree.leaves(localisation)) == 8


@pytest.mark.parametrize("by_channel", [False, True])
def test_dropout_is_active_in_training_mode(by_channel: bool) -> None:
    ones = jnp.ones((2, 4, 4, 50))
    model = stn_jax.nnx.Dropout(0.5, by_channel=by_channel, rngs=nnx.Rngs(0))
    dropped, again = np.asarray(model(ones)), model(ones)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert (dropped != again).any()
    assert (dropped == dropped[:, :1, :1]).all() == by_channel
    model.eval()
    np.testing.assert_array_equal(model(ones), ones)
    model.train()
    assert (model(ones) == 0).any()


def test_dropout_rate_may_be_traced() -> None:
    ones = jnp.ones((2, 4, 4, 50))

    @jax.jit
    def drop(rate: jax.Array) -> jax.Array:
        return stn_jax.nnx.Dropout(rate, rngs=nnx.Rngs(0))(ones)

    np.testing.assert_array_equal(drop(jnp.float32(0)), ones)
    np.testing.assert_allclose(np.mean(drop(jnp.float32(0.3)) == 0), 0.3, atol=0.1)


class Pool(nnx.Module):
    """A user-defined localisation network without `out_features`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(1, 4, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.linear(images.mean(axis=(1, 2)))


class LinenPool(nn.Module):
    """A user-defined localisation network in linen."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(4)(images.mean(axis=(1, 2)))


def test_a_module_of_the_other_api_raises_an_error_that_names_the_bridge(unchecked: None) -> None:
    pool, affine = Pool(nnx.Rngs(0)), transforms.affine
    for make in (
        lambda: linen.SpatialTransformer(pool, affine),
        lambda: linen.SpatialTransformer(pool.__call__, affine),
        lambda: linen.ParallelTransformers([make_nnx(transformer)]),
        lambda: linen.SpatialTransformerNetwork([linen.AveragePool(), pool]),
    ):
        with pytest.raises(ValueError, match=r"must not be .* NNX module.*nnx\.bridge\.ToLinen"):
            make()
    for make in (
        lambda: stn_jax.nnx.SpatialTransformer(
            LinenPool(), affine, num_features=4, rngs=nnx.Rngs(0)
        ),
        lambda: stn_jax.nnx.ParallelTransformers([transformer(linen, Arguments())]),
        lambda: stn_jax.nnx.SpatialTransformerNetwork([LinenPool()]),
    ):
        with pytest.raises(ValueError, match=r"must not be .* linen module.*nnx\.bridge\.ToNNX"):
            make()


def test_bridged_localisation_networks_are_trained() -> None:
    images, affine = images_of(SHAPE), transforms.affine
    module = linen.SpatialTransformer(nnx.bridge.to_linen(Pool), affine)
    params = perturbed(module.init(KEY, images)["params"])
    gradients = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, images)[0] ** 2))(params)
    assert np.abs(gradients["localisation"]["linear"]["kernel"]).max() > 0
    pool = nnx.bridge.ToNNX(LinenPool(), rngs=nnx.Rngs(0)).lazy_init(images)
    model = stn_jax.nnx.SpatialTransformer(pool, affine, num_features=4, rngs=nnx.Rngs(0))
    nnx.update(model, perturbed(pure_params(model)))
    gradients = nnx.grad(lambda model: jnp.sum(model(images)[0] ** 2))(model)
    assert np.abs(gradients["localisation"]["Dense_0"]["kernel"][...]).max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda rngs: stn_jax.nnx.SpatialTransformer(Pool(rngs), transforms.affine, rngs=rngs),
            "num_features must be given",
        ),
        (
            lambda rngs: transformer(stn_jax.nnx, Arguments(rngs), initial_theta=(1.0, 0.0)),
            r"initial_theta must have shape \[6\]; got \[2\]",
        ),
        (
            lambda rngs: transformer(stn_jax.nnx, Arguments(rngs), output_shape=()),
            r"output_shape must be 2 .* integers; got \(\)",
        ),
        (
            lambda rngs: transformer(stn_jax.nnx, Arguments(rngs), transform="affine"),
            "transform must be one of stn_jax.transforms, .*'affine'",
        ),
        (
            lambda rngs: stn_jax.nnx.ParallelTransformers([])(images_of(SHAPE)),
            "transformers must hold at least one transformer; got none",
        ),
        (
            lambda rngs: stn_jax.nnx.Conv(3, 4, (3, 3), feature_group_count=2, rngs=rngs),
            "feature_group_count must divide the 3 channels and the 4 features; got 2",
        ),
        (
            lambda rngs: stn_jax.nnx.Conv(3, 4, (3,), rngs=rngs),
            r"kernel_size must be 2 .*; got \(3,\)",
        ),
        (
            lambda rngs: transformer(stn_jax.nnx, Arguments(rngs))(images_of(SHAPE)[0]),
            r"images must have shape \[b, h, w, c\]; got \[28, 28, 1\]",
        ),
    ],
)
def test_invalid_argument_raises(
    make: Callable[[nnx.Rngs], Any], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        make(nnx.Rngs(0))


def test_a_warp_is_static(unchecked: None) -> None:
    fill = np.asarray([0.0, 1.0])
    first = Warp(transforms.affine, np.asarray([4, 5]), fill=fill)
    second = Warp(transforms.affine, (4, 5), fill=jnp.asarray(fill))
    assert first == second
    assert hash(first) == hash(second)
    assert first != Warp(transforms.affine, (4, 5))
    images, thetas = jnp.ones((2, 3, 3, 2)), jnp.zeros((2, 6))
    jitted = jax.jit(lambda warp, *arrays: warp(*arrays)[0], static_argnums=0)
    np.testing.assert_array_equal(jitted(first, images, thetas), second(images, thetas)[0])
