"""User-defined families: their modules, the networks that use them, and their errors."""

import pathlib
from collections.abc import Callable

import pytest

from experiments.settings.access import replace_settings
from experiments.settings.config import Config, Data, Model, Optimisation
from experiments.settings.errors import ConfigError
from experiments.training.models import make_network, make_transform
from experiments.training.population import PopulationTrainer
from tests.experiments.user_modules import REJECTED, SHEARS, parts_of_error

WriteModule = Callable[..., str]


@pytest.fixture
def shear(write_module: WriteModule) -> str:
    """A reference to a family that defines nothing but its warp."""
    return f"{write_module()}:shear"


def test_networks_hold_the_object_of_the_module(shear: str) -> None:
    family = make_transform(Model(transform=shear))
    module = __import__(shear.partition(":")[0])
    assert family is module.shear
    settings = Model("st_cnn", transform=shear, placement="between", transformers=2)
    stages = make_network(settings, 10, (0.0,)).stages
    assert [stage.transform for stage in stages if hasattr(stage, "transform")] == [family] * 2


def test_members_of_a_population_share_the_object(shear: str, data_file: pathlib.Path) -> None:
    base = Config(
        Data(dataset="npz", data_file=str(data_file)),
        Model("st_fcn", transform=shear),
        Optimisation(batch_size=6),
    )
    configs = [replace_settings(base, {"seed": seed}) for seed in range(3)]
    members = PopulationTrainer(configs, None, None).experiments
    families = {member.network.stages[0].transform for member in members}
    assert families == {make_transform(base.model)}


def test_families_for_volumes_fit_networks_for_volumes(write_module: WriteModule) -> None:
    settings = Model("st_projection_cnn", transform=f"{write_module()}:shift_3d")
    assert make_transform(settings).ndim == 3
    with pytest.raises(ConfigError, match=r"must have ndim 3 with --model st_projection_cnn; got"):
        make_transform(Model("st_projection_cnn", transform=settings.transform[:-8] + "shear"))


@pytest.mark.parametrize("kind", REJECTED)
def test_errors_name_the_module_and_the_cause(kind: str, write_module: WriteModule) -> None:
    source, attribute, *_ = REJECTED[kind]
    name = write_module(source)
    module = f"{name}.sub" if kind == "missing submodule" else name
    with pytest.raises(ConfigError) as error:
        make_transform(Model(transform=f"{module}:{attribute}"))
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts_of_error(kind, module))


def test_a_corrected_module_can_be_imported(write_module: WriteModule) -> None:
    with pytest.raises(ConfigError, match="there is no module"):
        make_transform(Model(transform=f"{write_module(None)}:shear"))
    assert make_transform(Model(transform=f"{write_module()}:shear")).name == "shear"


def test_equal_references_return_one_object(write_module: WriteModule) -> None:
    """Even if the module makes an object on every access."""
    source = SHEARS.replace("shear = Transform(", "make = lambda: Transform(")
    name = write_module(f"{source}\ndef __getattr__(name):\n    return make()\n")
    settings = Model(transform=f"{name}:shear")
    assert make_transform(settings) is make_transform(settings)
