"""Every public function works in every mode of JAX.

The default tests trace every function in a few combinations of modes. The slow tests run it in
each mode. `pytest -s -m "" tests/test_modes.py` prints a table of functions and modes.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stn_jax import coordinates, targets
from tests.compilation import compile_quickly  # noqa: F401
from tests.mode_cases import BATCH, CASES, Case
from tests.test_api import FUNCTIONS

SPEC = PartitionSpec("batch")
COMMUNICATION = ("all-gather", "all-to-all", "all-reduce", "collective-permute")


def split_key(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Separates a key from the arguments that have a derivative."""
    count = 0 if jnp.issubdtype(arguments[0].dtype, jnp.floating) else 1
    return arguments[:count], arguments[count:]


def loss_of(case: Case, *fixed: Any) -> Callable[..., tuple[jax.Array, Any]]:
    """The sum of squares of all results, and the results."""

    def loss(*inputs: jax.Array) -> tuple[jax.Array, Any]:
        value = case.function(*fixed, *inputs)
        return sum((jnp.sum(leaf**2) for leaf in floats(value)), jnp.zeros(())), value

    return loss


def floats(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def gradient_of(case: Case, *arguments: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function that returns loss, value and gradient of one example, and its inputs."""
    fixed, inputs = split_key(arguments)
    loss = loss_of(case, *fixed)
    return jax.value_and_grad(loss, tuple(range(len(inputs))), has_aux=True), inputs


def value_and_gradient(case: Case) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        gradient, inputs = gradient_of(case, *arguments)
        (_, value), grad = gradient(*inputs)
        return value, grad

    return run


def derivatives(case: Case) -> Callable[..., dict[str, Any]]:
    """The value of a case for one example, its gradient, and forward over reverse mode."""

    def run(*arguments: Any) -> dict[str, Any]:
        gradient, inputs = gradient_of(case, *arguments)
        tangents = tuple(jnp.ones_like(each) for each in inputs)
        ((_, value), grad), ((jvp, _), second) = jax.jvp(gradient, inputs, tangents)
        found = {"value": value, "grad": grad, "jvp": jvp, "second derivative": second}
        return found if floats(value) else {"value": value}

    return run


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-4) -> None:
    """The tolerance allows for roundings of other orders of summation."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def first(tree: Any) -> Any:
    """The first example of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


# Each mode is a function of a case, and raises an error if the case fails.


@functools.cache
def values(case: Case) -> Any:
    """The values of a batch; an error if one of them is NaN."""
    with jax.debug_nans(True):
        return jax.jit(jax.vmap(case.function))(*case.arguments)


@functools.cache
def values_and_derivatives(case: Case) -> dict[str, Any]:
    """The values and derivatives of a batch; an error if one of them is NaN."""
    with jax.debug_nans(True):
        return jax.jit(jax.vmap(derivatives(case)))(*case.arguments)


def runs_eagerly(case: Case) -> None:
    assert_close(case.function(*first(case.arguments)), first(values(case)))


def runs_in_vmap(case: Case) -> None:
    assert_close(jax.vmap(case.function)(*case.arguments), values(case))


def runs_without_jit(case: Case) -> None:
    with jax.disable_jit():
        runs_eagerly(case)


def traces_in_map(case: Case) -> None:
    def run(arguments: tuple[Any, ...]) -> Any:
        return jax.lax.map(lambda each: case.function(*each), arguments)

    found = jax.eval_shape(run, case.arguments)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, values(case))


def has_derivatives(case: Case) -> bool:
    return "grad" in values_and_derivatives(case)


def gradient_is_finite(case: Case) -> None:
    for leaf in jax.tree.leaves(values_and_derivatives(case)):
        assert np.isfinite(leaf).all()


def jvp_equals_gradient(case: Case) -> None:
    """Along a tangent of ones, the derivative is the sum of the gradient."""
    found = values_and_derivatives(case)
    if has_derivatives(case):
        sums = [np.reshape(leaf, (BATCH, -1)).sum(1) for leaf in found["grad"]]
        np.testing.assert_allclose(found["jvp"], sum(sums), rtol=1e-3, atol=1e-3)


def hessian_equals_forward_over_reverse(case: Case) -> None:
    def sums(*arguments: Any) -> Any:
        """The sum of each row of the Hessian, which is its product with a tangent of ones."""
        fixed, inputs = split_key(arguments)
        indices = tuple(range(len(inputs)))
        hessian = jax.hessian(lambda *inputs: loss_of(case, *fixed)(*inputs)[0], indices)(*inputs)
        return tuple(
            sum(jnp.sum(block.reshape(*row.shape, -1), -1) for block in blocks)
            for row, blocks in zip(inputs, hessian, strict=True)
        )

    if has_derivatives(case):
        expected = values_and_derivatives(case)["second derivative"]
        assert_close(jax.jit(jax.vmap(sums))(*case.arguments), expected, tolerance=2e-3)


def traces_transformed(transform: Callable[..., Any], case: Case) -> None:
    def run(*arguments: Any) -> Any:
        fixed, inputs = split_key(arguments)
        return transform(lambda *inputs: loss_of(case, *fixed)(*inputs)[0], inputs)

    jax.eval_shape(jax.vmap(run), *case.arguments)


def checkpointed_gradient(loss: Callable[..., jax.Array], inputs: tuple[Any, ...]) -> Any:
    return jax.grad(jax.checkpoint(loss))(*inputs)


def linearized(loss: Callable[..., jax.Array], inputs: tuple[Any, ...]) -> Any:
    return jax.linearize(loss, *inputs)[1](*inputs)


def mesh_and_arguments(case: Case, axis_type: AxisType) -> tuple[Mesh, Any]:
    """Two devices, and the arguments with one example on each."""
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))
    return mesh, jax.device_put(case.arguments, NamedSharding(mesh, SPEC))


def lowers_in_strict_modes_on_an_explicit_mesh(case: Case) -> None:
    """Neither dtypes nor ranks are promoted, and results are sharded like the batch."""
    mesh, arguments = mesh_and_arguments(case, AxisType.Explicit)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.set_mesh(mesh),
    ):
        traced = jax.jit(jax.vmap(derivatives(case))).trace(*arguments)
        traced.lower()  # traces the implementations of primitives
    for leaf in jax.tree.leaves(traced.out_info):
        assert leaf.sharding.spec[0] == "batch"
        assert not any(leaf.sharding.spec[1:])


def runs_on_a_mesh(axis_type: AxisType, case: Case) -> None:
    mesh, arguments = mesh_and_arguments(case, axis_type)
    with jax.set_mesh(mesh):
        check_sharded_program(jax.vmap(value_and_gradient(case)), arguments, case)


def runs_eagerly_on_an_explicit_mesh(case: Case) -> None:
    mesh, arguments = mesh_and_arguments(case, AxisType.Explicit)
    with jax.set_mesh(mesh):
        found = jax.vmap(case.function)(*arguments)
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.spec == PartitionSpec("batch", *(None,) * (leaf.ndim - 1))
    assert_close(found, values(case))


def check_sharded_program(function: Callable[..., Any], arguments: Any, case: Case) -> None:
    """Results are right and sharded like the batch, and devices do not communicate."""
    program = jax.jit(function).lower(*arguments).compile()
    text = program.as_text()
    assert not [name for name in COMMUNICATION if name in text]
    found = program(*arguments)
    for leaf in jax.tree.leaves(found):
        # The compiler replicates a gradient that is 0 everywhere.
        assert leaf.addressable_shards[0].data.shape[0] == 1 or not np.any(leaf)
    expected = values_and_derivatives(case)
    assert_close(found[0], expected["value"])
    if has_derivatives(case):
        assert_close(found[1], expected["grad"], tolerance=1e-3)


def in_shard_map(function: Callable[..., Any], case: Case) -> tuple[Callable[..., Any], Any]:
    mesh, arguments = mesh_and_arguments(case, AxisType.Explicit)
    return jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=SPEC, out_specs=SPEC), arguments


def traces_in_shard_map(case: Case) -> None:
    """Nothing is summed over devices, which would add derivatives of different examples."""
    mapped, arguments = in_shard_map(derivatives(case), case)
    assert "psum" not in str(jax.make_jaxpr(mapped)(*arguments))


def runs_in_shard_map(case: Case) -> None:
    mapped, arguments = in_shard_map(value_and_gradient(case), case)
    check_sharded_program(mapped, arguments, case)


def leaks_no_tracer(case: Case) -> None:
    with jax.check_tracer_leaks(True):
        jax.make_jaxpr(jax.vmap(derivatives(case)))(*case.arguments)


def computes_in_double_precision(case: Case) -> None:
    """Arguments of either precision are accepted, and dtypes are not promoted."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        fixed, inputs = split_key(case.arguments)
        double = [jax.ShapeDtypeStruct(each.shape, jnp.float64) for each in inputs]
        jax.eval_shape(jax.vmap(case.function), *case.arguments)
        found = jax.eval_shape(jax.vmap(value_and_gradient(case)), *fixed, *double)
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype in (jnp.float64, jnp.bool_)


def with_raw_key(case: Case) -> tuple[Any, ...]:
    """The arguments of a case, with a raw key instead of a typed one."""
    fixed, inputs = split_key(case.arguments)
    return (*map(jax.random.key_data, fixed), *inputs)


def exports_with_symbolic_batch(case: Case) -> jax.export.Exported:
    arguments = with_raw_key(case)
    (batch,) = jax.export.symbolic_shape("batch")
    specs = [jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in arguments]
    program = jax.jit(jax.vmap(case.function))
    return jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(*specs)


def runs_exported(case: Case) -> None:
    assert_close(exports_with_symbolic_batch(case).call(*with_raw_key(case)), values(case))


FAST_MODES: dict[str, Callable[[Case], Any]] = {
    "strict dtypes and ranks, Explicit mesh": lowers_in_strict_modes_on_an_explicit_mesh,
    "shard_map, traced": traces_in_shard_map,
    "x64, strict dtypes": computes_in_double_precision,
    "export, symbolic batch": exports_with_symbolic_batch,
}
SLOW_MODES: dict[str, Callable[[Case], Any]] = {
    "jit": values,
    "eager": runs_eagerly,
    "vmap": runs_in_vmap,
    "disable_jit": runs_without_jit,
    "lax.map": traces_in_map,
    "grad": gradient_is_finite,
    "jvp": jvp_equals_gradient,
    "hessian": hessian_equals_forward_over_reverse,
    "linearize": functools.partial(traces_transformed, linearized),
    "checkpoint": functools.partial(traces_transformed, checkpointed_gradient),
    "Explicit mesh": functools.partial(runs_on_a_mesh, AxisType.Explicit),
    "Explicit mesh, eager": runs_eagerly_on_an_explicit_mesh,
    "Auto mesh": functools.partial(runs_on_a_mesh, AxisType.Auto),
    "shard_map": runs_in_shard_map,
    "check_tracer_leaks": leaks_no_tracer,
    "debug_nans": values_and_derivatives,
    "export, run": runs_exported,
}
MODES = FAST_MODES | SLOW_MODES
RESULTS: dict[tuple[str, str], str] = {}


def record(name: str, mode: str) -> None:
    """Runs a case in a mode and records the result for the table."""
    RESULTS[name, mode] = "FAIL"
    MODES[mode](CASES[name])
    RESULTS[name, mode] = "ok"


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Prints a table with a column for each mode."""
    yield
    width = max(map(len, CASES))
    print()
    for i, mode in enumerate(MODES):
        print(f"{'':{width}} {'   | ' * i}   {mode}")
    for name in CASES:
        print(f"{name:{width}} " + " ".join(f"{RESULTS.get((name, m), '-'):>4}" for m in MODES))


# These packages have tests of their own for their modules.
MODULES = ("stn_jax.nn", "stn_jax.linen", "stn_jax.nnx", "stn_jax.training")
WITHOUT_ARRAYS = (
    coordinates.pixel_bounds,
    coordinates.target_points,
    targets.polar,
    targets.log_polar,
)


def test_every_public_function_is_in_the_table() -> None:
    covered = {function for case in CASES.values() for function in case.covers}
    for name, function in FUNCTIONS:
        if not name.startswith(MODULES) and function not in WITHOUT_ARRAYS:
            assert function in covered, f"{name} is in no case of tests/mode_cases.py"


@pytest.mark.parametrize("mode", FAST_MODES)
@pytest.mark.parametrize("name", CASES)
def test_every_function_can_be_traced_in_every_mode(name: str, mode: str) -> None:
    record(name, mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", SLOW_MODES)
@pytest.mark.parametrize("name", CASES)
def test_every_function_runs_in_every_mode(name: str, mode: str) -> None:
    record(name, mode)
