"""Learning rates of parts of the parameters."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stn_jax import training


def test_updates_of_selected_parameters_are_scaled() -> None:
    scaling = training.scale_updates(0.1, lambda path: "w" in str(path))
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    optimizer = optax.chain(optax.sgd(1.0), scaling)
    updates, _ = optimizer.update({"w": jnp.ones(2), "b": jnp.ones(2)}, optimizer.init(params))
    np.testing.assert_allclose(updates["w"], -0.1)
    np.testing.assert_allclose(updates["b"], -1.0)


def test_selecting_no_parameter_raises() -> None:
    scaling = training.scale_updates(0.1, lambda path: "localisation" in str(path))
    with pytest.raises(ValueError, match="selects must select at least one parameter; got none"):
        scaling.init({"w": jnp.ones(2)})
