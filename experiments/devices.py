"""The devices of a run, in a mesh: examples of a batch over one axis, members over another.

Everything else is on every device. Values do not depend on the devices but for the rounding of
sums: randomness is drawn by example, wherever it lies.
"""

import contextlib
import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.config import Run, mesh_sizes
from experiments.records import RunError
from stn_jax.population import MEMBER
from stn_jax.training import Batch, Prepare

BATCH = "batch"


def mesh(run: Run) -> Mesh | None:
    """The mesh that `--mesh` asks for; of CPUs it makes as many virtual devices as that takes.

    Raises:
        RunError: if there are fewer devices.
    """
    sizes = mesh_sizes(run)
    if not sizes:
        return None
    count = math.prod(sizes.values())
    with contextlib.suppress(RuntimeError):  # JAX has started: there are as many as there are
        jax.config.update("jax_num_cpu_devices", count)
    if count > jax.device_count():
        raise RunError(
            f"--mesh {run.mesh} takes {count} devices; there are {jax.device_count()} "
            f"({jax.default_backend()})"
        )
    return make_mesh(sizes)


def make_mesh(sizes: dict[str, int]) -> Mesh:
    """A mesh of the first devices."""
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=jax.devices()[: math.prod(sizes.values())],
    )


def member_mesh() -> Mesh | None:
    """All devices in one axis of members; None of a single device."""
    count = jax.device_count()
    return None if count == 1 else make_mesh({MEMBER: count})


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays on every device of a mesh; where there is none, as they are."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batches(prepare: Prepare, mesh: Mesh | None) -> Prepare:
    """`prepare`, its batches spread over the mesh: from there on all that is computed of them."""
    if mesh is None or BATCH not in mesh.axis_names:
        return prepare

    def sharded(keys: jax.Array, batch: Batch) -> Batch:
        return _spread(prepare(_spread(keys, mesh), _spread(batch, mesh)), mesh)

    return sharded


def _spread(tree: Any, mesh: Mesh) -> Any:
    # Inside `shard_map` over members, the mesh is another: the one of the context.
    context = jax.sharding.get_abstract_mesh()
    sharding = NamedSharding(mesh if context.empty else context, PartitionSpec(BATCH))
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), tree)
