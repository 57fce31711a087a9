"""Every setting of a model builds what it says and takes a step; optimisers and schedules too."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import command_line, models
from experiments import config as configuration
from experiments import experiment as setup
from experiments.config import Model, Optimisation
from stn_jax import training, transforms
from stn_jax.nn import (
    CNN,
    CNNLocalisationNetwork,
    FCNLocalisationNetwork,
    Projection,
    SpatialTransformer,
    SpatialTransformerNetwork,
    VolumeLocalisationNetwork,
    is_localisation,
)

KEY = jax.random.key(0)
BACKGROUND = (-0.5,)
IMAGES = jax.random.normal(KEY, (2, 28, 28, 1))
LABELS = jnp.asarray([3, 1])
VOLUMES = jax.random.normal(KEY, (2, 26, 26, 26, 1))
PLAIN = configuration.WITHOUT_TRANSFORMER
IN_SPACE = configuration.TRANSFORMS_3D


def choices(name: str, group: type = Model) -> tuple[str, ...]:
    return typing.get_args(typing.get_type_hints(group)[name])


def network(model: str = "st_fcn", **settings: Any) -> SpatialTransformerNetwork:
    if model in configuration.PROJECTING:
        settings = {"transform": "affine_3d"} | settings
    settings = Model(model=model, **settings)
    distortion = "extruded" if model in configuration.PROJECTING else "r"
    configuration.check(configuration.Config(configuration.Data(distortion=distortion), settings))
    return models.make_network(settings, 10, BACKGROUND)


def examples(made: SpatialTransformerNetwork) -> jax.Array:
    """What such a network takes."""
    return VOLUMES if any(isinstance(stage, Projection) for stage in made.stages) else IMAGES


def abstract_step(
    made: SpatialTransformerNetwork, optimisation: Optimisation | None = None
) -> tuple[training.TrainState, training.TrainState, dict[str, Any], dict[str, Any]]:
    """The states before and after a step, its values and intermediates: shapes only."""
    apply = setup.apply_fn(made)
    optimizer = models.make_optimizer(optimisation or Optimisation(), 10)
    objective = training.classification(apply, setup.share_outside)

    def step(key: jax.Array) -> Any:
        params = made.init(key, examples(made))["params"]
        state = training.init_state(key, params, optimizer)
        batch = {"image": examples(made), "label": LABELS}
        after, values = training.train_step(objective, optimizer, state, batch)
        return state, after, values, apply(params, examples(made), None)[1]

    return jax.eval_shape(step, KEY)


def assert_takes_a_step(made: SpatialTransformerNetwork, count: int) -> dict[str, Any]:
    """It does, and has this many transformers; their intermediates."""
    before, after, values, found = abstract_step(made)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (before, after))
    assert shapes[0] == shapes[1]
    assert {"loss", "error", "gradient_norm"} <= values.keys()
    assert ("outside" in values) == (count > 0)
    assert list(found) == [f"transformer_{i}" for i in range(count)]
    parameters = jax.tree.leaves(before.params)
    assert all(leaf.dtype == jnp.float32 for leaf in parameters)
    localisation = [
        is_localisation(p) for p, _ in jax.tree_util.tree_leaves_with_path(before.params)
    ]
    assert any(localisation) == (count > 0)
    assert not all(localisation)
    return found


@pytest.mark.parametrize("model", PLAIN)
def test_networks_without_a_transformer(model: str) -> None:
    assert_takes_a_step(network(model), count=0)


@pytest.mark.parametrize(
    ("model", "transform"),
    [
        (model, transform)
        for model in choices("model")
        for transform in choices("transform")
        if model not in PLAIN and (model in configuration.PROJECTING) == (transform in IN_SPACE)
    ],
)
def test_every_model_takes_every_transformation(model: str, transform: str) -> None:
    made = network(model, transform=transform)
    found = assert_takes_a_step(made, count=1)
    assert found["transformer_0"]["theta"].shape == (
        2,
        models.make_transform(Model(transform=transform)).num_params,
    )
    assert found["transformer_0"]["output"].shape == examples(made).shape


@pytest.mark.parametrize("localisation", choices("localisation"))
def test_every_localisation_network(localisation: str) -> None:
    model = "st_projection_cnn" if localisation == "volume" else "st_fcn"
    assert_takes_a_step(network(model, localisation=localisation), count=1)


def test_auto_is_the_localisation_network_of_the_model() -> None:
    belongs = {"st_fcn": "fcn", "st_cnn": "cnn", "tutorial": "tutorial"}
    for model, localisation in (belongs | {"st_projection_cnn": "volume"}).items():
        assert network(model) == network(model, localisation=localisation)
        other = "cnn" if localisation == "fcn" else "fcn"
        assert network(model) != network(model, localisation=other)


def test_in_series() -> None:
    found = assert_takes_a_step(network(placement="series", transformers=3), count=3)
    assert {each["output"].shape for each in found.values()} == {IMAGES.shape}


def test_in_parallel_the_classifier_sees_all() -> None:
    made = network(placement="parallel", transformers=2)
    assert_takes_a_step(made, count=2)
    params = abstract_step(made)[0].params
    inputs = {leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim == 2}
    assert 2 * 28 * 28 in inputs


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("st_cnn", [(28, 28, 1), (10, 10, 32)]),
        ("st_compact", [(28, 28, 1), (12, 12, 32), (4, 4, 64)]),
    ],
)
def test_between_the_layers(model: str, sizes: list[tuple[int, ...]]) -> None:
    for count in range(1, len(sizes) + 1):
        made = network(model, placement="between", transformers=count)
        found = assert_takes_a_step(made, count=count)
        assert [each["output"].shape[1:] for each in found.values()] == sizes[:count]


@pytest.mark.parametrize("model", ["fcn", "cnn", "compact"])
def test_plain_networks_pool_their_input(model: str) -> None:
    larger = jax.random.normal(KEY, (2, 56, 56, 1))
    pooled = jax.eval_shape(network(model, pool=2).init, KEY, larger)["params"]
    plain = jax.eval_shape(network(model).init, KEY, IMAGES)["params"]
    assert jax.tree.leaves(pooled) == jax.tree.leaves(plain)


def test_the_sampler_is_set_for_all_of_them() -> None:
    options = {"mode": "bicubic", "padding_mode": "border", "align_corners": True}
    for settings in [
        {"placement": "series", "transformers": 2},
        {"model": "st_cnn", "placement": "between", "transformers": 2},
    ]:
        made = network(**settings, **options)
        placed = [stage for stage in made.stages if hasattr(stage, "padding_mode")]
        assert len(placed) == 2
        assert all(getattr(each, k) == v for each in placed for k, v in options.items())


def test_what_lies_outside_is_background_at_the_input_and_zero_between() -> None:
    made = network("st_cnn", placement="between", transformers=2)
    fills = [stage.fill for stage in made.stages if hasattr(stage, "fill")]
    assert fills == [BACKGROUND, 0.0]


def test_output_size_and_pool() -> None:
    found = assert_takes_a_step(network(output_size=20), count=1)
    assert found["transformer_0"]["output"].shape == (2, 20, 20, 1)
    params = abstract_step(network(output_size=20, pool=2))[0].params
    inputs = {leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim == 2}
    assert {28 * 28, 10 * 10} <= inputs


def test_a_volume_is_projected_after_its_transformer_and_before_the_pooling() -> None:
    made = network("st_projection_cnn", output_size=50, pool=2)
    kinds = [type(stage).__name__ for stage in made.stages]
    assert kinds == ["SpatialTransformer", "Projection", "AveragePool", "CNN"]
    found = assert_takes_a_step(made, count=1)
    assert found["transformer_0"]["output"].shape == (2, 50, 50, 50, 1)
    assert [type(stage) for stage in network("projection_cnn").stages] == [Projection, CNN]


def test_features_control_points_and_dropout() -> None:
    params = abstract_step(network(features=(7,)))[0].params
    assert (28 * 28, 7) in {leaf.shape for leaf in jax.tree.leaves(params)}
    spline = models.make_transform(Model(transform="thin_plate_spline", control_points=(3, 5)))
    assert spline.num_params == 30
    stiff = Model(transform="thin_plate_spline", regularisation=1.0)
    theta, points = jnp.zeros(32).at[0].set(0.3), jnp.asarray([[-1.0, -1.0]])
    moved = [
        models.make_transform(each).warp(theta, points)[0, 0]
        for each in (Model(transform="thin_plate_spline"), stiff)
    ]
    assert moved[0] == pytest.approx(-0.7, abs=1e-5)
    assert -1 < moved[1] < -0.75
    assert network("tutorial", dropout=0.1).stages[-1].dropout == 0.1


@pytest.mark.parametrize(
    ("settings", "features", "of"),
    [
        ({"model": "st_fcn"}, (4, 5), FCNLocalisationNetwork),
        ({"model": "st_cnn"}, (4, 5, 6), CNNLocalisationNetwork),
        ({"model": "st_cnn", "placement": "between"}, (4, 5, 6), CNNLocalisationNetwork),
        ({"model": "st_compact"}, (4, 5, 6), CNNLocalisationNetwork),
        ({"model": "st_compact", "localisation": "fcn"}, (4, 5), FCNLocalisationNetwork),
        ({"model": "st_projection_cnn"}, (4, 5), VolumeLocalisationNetwork),
    ],
)
def test_localisation_features(
    settings: dict[str, Any], features: tuple[int, ...], of: type
) -> None:
    first = network(**settings, localisation_features=features).stages[0]
    assert (type(first.localisation), first.localisation.features) == (of, features)


def test_localisation_features_are_of_the_input() -> None:
    def found(**settings: Any) -> list[tuple[int, ...]]:
        stages = network("st_cnn", **settings, transformers=2).stages
        first = getattr(stages[0], "transformers", stages)
        transformers = [each for each in first if isinstance(each, SpatialTransformer)]
        return [each.localisation.features for each in transformers]

    sizes = (4, 5, 6)
    assert found(placement="series", localisation_features=sizes) == [sizes, sizes]
    assert found(placement="parallel", localisation_features=sizes) == [sizes, sizes]
    assert found(placement="between", localisation_features=sizes) == [sizes, (32, 32)]
    assert found(placement="series") == [(20, 20, 20)] * 2
    assert network("st_fcn").stages[0].localisation.features == (32, 32, 32)
    assert network("st_projection_cnn").stages[0].localisation.features == (64, 32, 32)


def test_every_name_is_its_transform() -> None:
    for name in choices("transform"):
        assert models.make_transform(Model(transform=name)).name == name
    assert models.make_transform(Model(transform="affine")) is transforms.affine


@pytest.mark.parametrize("model", choices("model"))
def test_bfloat16_is_of_the_networks_only(model: str) -> None:
    made = network(model, precision="bfloat16")
    found = assert_takes_a_step(made, count=model not in PLAIN)
    for each in found.values():
        assert {value.dtype for value in each.values()} == {jnp.dtype("float32")}
    program = jax.make_jaxpr(lambda p: made.apply({"params": p}, examples(made))[0])(
        abstract_step(made)[0].params
    )
    assert "bf16" in str(program)
    assert program.out_avals[0].dtype == jnp.float32


# Optimisers, run on parameters that are like a network's.

PARAMS = {
    "stages_0": {
        "localisation": {"kernel": jnp.ones((3, 1))},
        "localisation_regression": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)},
    },
    "stages_1": {"kernel": jnp.ones((2, 2))},
}
GRADIENTS = jax.tree.map(lambda leaf: 0.1 + jnp.arange(leaf.size).reshape(leaf.shape), PARAMS)


def updates(steps: int = 3, **settings: Any) -> list[Any]:
    """What each step adds to the parameters, under gradients that stay the same."""
    optimizer = models.make_optimizer(Optimisation(schedule="constant", **settings), 10)
    state, found = optimizer.init(PARAMS), []
    for _ in range(steps):
        update, state = optimizer.update(GRADIENTS, state, PARAMS)
        found.append(update)
    return found


@pytest.mark.parametrize("optimizer", choices("optimizer", Optimisation))
def test_localisation_lr_is_of_the_localisation_networks_only(optimizer: str) -> None:
    settings = {"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0.1}
    for one, other in zip(
        updates(**settings), updates(**settings, localisation_lr=0.001), strict=True
    ):
        ratios = jax.tree.map(lambda a, b: np.asarray(b / a), one, other)
        for path, ratio in jax.tree_util.tree_leaves_with_path(ratios):
            expected = 0.1 if "localisation" in str(path) else 1.0
            np.testing.assert_allclose(ratio, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optimizer": "sgd", "momentum": 0.0}, optax.sgd(0.01)),
        ({"optimizer": "sgd", "momentum": 0.8}, optax.sgd(0.01, momentum=0.8)),
        ({"optimizer": "adam"}, optax.adam(0.01)),
        ({"optimizer": "adamw", "weight_decay": 0.0}, optax.adamw(0.01, weight_decay=0.0)),
    ],
)
def test_every_optimizer_is_optaxs(
    settings: dict[str, Any], expected: optax.GradientTransformation
) -> None:
    state = expected.init(PARAMS)
    for found in updates(learning_rate=0.01, **settings):
        update, state = expected.update(GRADIENTS, state, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, update)


def test_kernels_decay_and_biases_do_not() -> None:
    settings = {"optimizer": "adamw", "learning_rate": 0.01}
    (free,), (decayed,) = (updates(1, **settings, weight_decay=decay) for decay in (0.0, 0.3))
    less = jax.tree.map(lambda one, other: np.asarray(other - one), free, decayed)
    for path, of_leaf in jax.tree_util.tree_leaves_with_path(less):
        expected = 0.0 if "bias" in str(path) else -0.01 * 0.3  # of parameters that are 1
        np.testing.assert_allclose(of_leaf, expected, rtol=1e-3, err_msg=str(path))


def test_clip_norm() -> None:
    settings = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0}
    (plain,), (clipped,) = updates(1, **settings), updates(1, **settings, clip_norm=0.5)
    assert optax.tree.norm(plain) > 1
    assert optax.tree.norm(clipped) == pytest.approx(0.5)
    (unclipped,) = updates(1, **settings, clip_norm=1e3)
    jax.tree.map(np.testing.assert_array_equal, plain, unclipped)


# Schedules, of a run of 30 steps.


def rates(**settings: Any) -> np.ndarray:
    optimisation = dataclasses.replace(Optimisation(learning_rate=0.5, epochs=3), **settings)
    schedule = models.make_schedule(optimisation, 10)
    return np.asarray([float(schedule(jnp.int32(step))) for step in range(30)])


def test_constant() -> None:
    assert set(rates(schedule="constant")) == {0.5}


def test_cosine() -> None:
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(30) / 30))
    np.testing.assert_allclose(rates(schedule="cosine"), expected, atol=1e-6)


def test_step_falls_every_third() -> None:
    expected = np.repeat([0.5, 0.05, 0.005], 10)
    np.testing.assert_allclose(rates(schedule="step"), expected, rtol=1e-5)


@pytest.mark.parametrize("schedule", choices("schedule", Optimisation))
def test_warmup_rises_from_zero_and_leaves_the_schedule_the_rest(schedule: str) -> None:
    found = rates(schedule=schedule, warmup=0.6)
    np.testing.assert_allclose(found[:6], 0.5 * np.arange(6) / 6, atol=1e-6)
    assert found[6] == pytest.approx(0.5)
    last = {"constant": 0.5, "cosine": 0.25 * (1 + np.cos(np.pi * 23 / 24)), "step": 0.005}
    assert found[-1] == pytest.approx(last[schedule], rel=1e-4)


# What does not fit the images.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--distortion tc --crop-size 40",
            "--distortion tc does not fit images of shape [28, 28, 1]: --crop-size must be a whole "
            "number between 1 and 28; got 40",
        ),
        (
            "--distortion t --canvas 27",
            "--distortion t does not fit images of shape [28, 28, 1]: --canvas must be at least "
            "the image's [28, 28]; got [27, 27]",
        ),
        (
            "--distortion t --canvas 40 --output-size 8",
            "--model st_cnn with --pool 1 and --output-size 8 does not fit images of shape "
            "[40, 40, 1]: ",
        ),
        (
            "--model tutorial --pool 9",
            "--model tutorial with --pool 9 and no --output-size does not fit images of shape "
            "[28, 28, 1]: ",
        ),
    ],
)
def test_settings_that_do_not_fit_the_images(arguments: str, message: str) -> None:
    _, config = command_line.parse(arguments.split(), "train")
    with pytest.raises(configuration.ConfigError) as error:
        setup.initial_state(setup.build(config))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
