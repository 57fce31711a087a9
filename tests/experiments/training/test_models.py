"""Every setting of a model builds the right network, and it trains."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.settings import command_line
from experiments.settings.config import (
    PROJECTION_MODELS,
    VOLUME_TRANSFORMS,
    WITHOUT_TRANSFORMER,
    Config,
    Data,
    Model,
    Optimisation,
)
from experiments.settings.errors import ConfigError
from experiments.settings.validation import validate
from experiments.training import models, optimizers
from experiments.training.experiment import apply_fn, build_experiment, initial_state, share_outside
from stn_jax import training, transforms
from stn_jax.linen import (
    CNN,
    CNNLocalisationNetwork,
    FCNLocalisationNetwork,
    Projection,
    SpatialTransformer,
    SpatialTransformerNetwork,
    VolumeLocalisationNetwork,
    is_localisation,
)
from tests.experiments.settings.fields import choices

KEY = jax.random.key(0)
BACKGROUND = (-0.5,)
IMAGES = jax.random.normal(KEY, (2, 28, 28, 1))
LABELS = jnp.asarray([3, 1])
VOLUMES = jax.random.normal(KEY, (2, 26, 26, 26, 1))
PLAIN = WITHOUT_TRANSFORMER
IN_SPACE = VOLUME_TRANSFORMS


def network(model: str = "st_fcn", **settings: Any) -> SpatialTransformerNetwork:
    if model in PROJECTION_MODELS:
        settings = {"transform": "affine_3d"} | settings
    settings = Model(model=model, **settings)
    distortion = "extruded" if model in PROJECTION_MODELS else "r"
    validate(Config(Data(distortion=distortion), settings))
    return models.make_network(settings, 10, BACKGROUND)


def example_images(made: SpatialTransformerNetwork) -> jax.Array:
    """Images or volumes, whichever the network takes."""
    return VOLUMES if any(isinstance(stage, Projection) for stage in made.stages) else IMAGES


def abstract_step(
    made: SpatialTransformerNetwork,
) -> tuple[training.TrainState, training.TrainState, dict[str, Any], dict[str, Any]]:
    """The abstract states before and after a step, its values and the intermediates."""
    optimizer = optimizers.make_optimizer(Optimisation(), 10)
    objective = training.classification(apply_fn(made), share_outside)

    def step(key: jax.Array) -> Any:
        (_, intermediates), variables = made.init_with_output(key, example_images(made))
        state = training.init_state(key, variables["params"], optimizer, {})
        batch = {"image": example_images(made), "label": LABELS}
        after, values = training.train_step(objective, optimizer, state, batch)
        return state, after, values, intermediates

    return jax.eval_shape(step, KEY)


def assert_trains(made: SpatialTransformerNetwork, count: int) -> dict[str, Any]:
    """Asserts that a network trains and has `count` transformers. Returns their intermediates."""
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
    assert_trains(network(model), count=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "transform"),
    [
        (model, transform)
        for model in choices("model")
        for transform in choices("transform")
        if model not in PLAIN and (model in PROJECTION_MODELS) == (transform in IN_SPACE)
    ],
)
def test_every_model_trains_with_every_transformation(model: str, transform: str) -> None:
    made = network(model, transform=transform)
    found = assert_trains(made, count=1)
    assert found["transformer_0"]["theta"].shape == (
        2,
        models.make_transform(Model(transform=transform)).num_params,
    )
    assert found["transformer_0"]["output"].shape == example_images(made).shape


@pytest.mark.parametrize("localisation", choices("localisation"))
def test_every_localisation_network_trains(localisation: str) -> None:
    model = "st_projection_cnn" if localisation == "volume" else "st_fcn"
    assert_trains(network(model, localisation=localisation), count=1)


def test_localisation_auto_chooses_by_model() -> None:
    expected = {"st_fcn": "fcn", "st_cnn": "cnn", "tutorial": "tutorial"}
    for model, localisation in (expected | {"st_projection_cnn": "volume"}).items():
        assert network(model) == network(model, localisation=localisation)
        other = "cnn" if localisation == "fcn" else "fcn"
        assert network(model) != network(model, localisation=other)


def test_transformers_in_series_keep_the_image_size() -> None:
    found = assert_trains(network(placement="series", transformers=3), count=3)
    assert {each["output"].shape for each in found.values()} == {IMAGES.shape}


def test_parallel_transformers_all_feed_the_classifier() -> None:
    made = network(placement="parallel", transformers=2)
    assert_trains(made, count=2)
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
def test_transformers_between_layers_transform_feature_maps(
    model: str, sizes: list[tuple[int, ...]]
) -> None:
    for count in range(1, len(sizes) + 1):
        made = network(model, placement="between", transformers=count)
        found = assert_trains(made, count=count)
        assert [each["output"].shape[1:] for each in found.values()] == sizes[:count]


@pytest.mark.parametrize("model", ["fcn", "cnn", "compact"])
def test_plain_networks_pool_their_input(model: str) -> None:
    larger = jax.random.normal(KEY, (2, 56, 56, 1))
    pooled = jax.eval_shape(network(model, pool=2).init, KEY, larger)["params"]
    plain = jax.eval_shape(network(model).init, KEY, IMAGES)["params"]
    assert jax.tree.leaves(pooled) == jax.tree.leaves(plain)


def test_sampling_options_apply_to_all_transformers() -> None:
    options = {"mode": "bicubic", "padding_mode": "border", "align_corners": True}
    for settings in [
        {"placement": "series", "transformers": 2},
        {"model": "st_cnn", "placement": "between", "transformers": 2},
    ]:
        made = network(**settings, **options)
        placed = [stage for stage in made.stages if hasattr(stage, "padding_mode")]
        assert len(placed) == 2
        assert all(getattr(each, k) == v for each in placed for k, v in options.items())


def test_fill_is_the_background_at_the_input_and_zero_between_layers() -> None:
    made = network("st_cnn", placement="between", transformers=2)
    fills = [stage.fill for stage in made.stages if hasattr(stage, "fill")]
    assert fills == [BACKGROUND, 0.0]


def test_output_size_and_pool_set_the_classifier_input() -> None:
    found = assert_trains(network(output_size=20), count=1)
    assert found["transformer_0"]["output"].shape == (2, 20, 20, 1)
    params = abstract_step(network(output_size=20, pool=2))[0].params
    inputs = {leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim == 2}
    assert {28 * 28, 10 * 10} <= inputs


def test_volume_is_projected_between_transformer_and_pooling() -> None:
    made = network("st_projection_cnn", output_size=50, pool=2)
    kinds = [type(stage).__name__ for stage in made.stages]
    assert kinds == ["SpatialTransformer", "Projection", "AveragePool", "CNN"]
    found = assert_trains(made, count=1)
    assert found["transformer_0"]["output"].shape == (2, 50, 50, 50, 1)
    assert [type(stage) for stage in network("projection_cnn").stages] == [Projection, CNN]


def test_features_control_points_and_dropout_are_applied() -> None:
    params = abstract_step(network(features=(7,)))[0].params
    assert (28 * 28, 7) in {leaf.shape for leaf in jax.tree.leaves(params)}
    spline = models.make_transform(Model(transform="thin_plate_spline", control_points=(3, 5)))
    assert spline.num_params == 30
    flow = models.make_transform(Model(transform="velocity_field", control_points=(3, 5)))
    assert flow is transforms.velocity_field((3, 5))
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
def test_localisation_features_set_the_first_localisation_network(
    settings: dict[str, Any], features: tuple[int, ...], of: type
) -> None:
    first = network(**settings, localisation_features=features).stages[0]
    assert (type(first.localisation), first.localisation.features) == (of, features)


def test_localisation_features_apply_only_to_transformers_at_the_input() -> None:
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


def test_transforms_are_found_by_name() -> None:
    for name in choices("transform"):
        assert models.make_transform(Model(transform=name)).name == name
    assert models.make_transform(Model(transform="affine")) is transforms.affine


@pytest.mark.parametrize("model", choices("model"))
def test_bfloat16_applies_only_inside_the_networks(model: str) -> None:
    made = network(model, precision="bfloat16")
    found = assert_trains(made, count=model not in PLAIN)
    for each in found.values():
        assert {value.dtype for value in each.values()} == {jnp.dtype("float32")}
    program = jax.make_jaxpr(lambda p: made.apply({"params": p}, example_images(made))[0])(
        abstract_step(made)[0].params
    )
    assert "bf16" in str(program)
    assert program.out_avals[0].dtype == jnp.float32


# --- Images of unsuitable size --------------------------------------------------------------------


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
def test_settings_that_do_not_fit_the_images_are_an_error(arguments: str, message: str) -> None:
    config = command_line.parse(arguments.split(), "train").config
    with pytest.raises(ConfigError) as error:
        initial_state(build_experiment(config))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
