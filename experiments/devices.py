"""The devices of a run, in a mesh: examples of a batch over one axis, members over another.

Everything else is on every device. Values do not depend on the devices but for the rounding of
sums: randomness is drawn by example, wherever it lies.
"""

import contextlib
import math
import socket
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.config import Run, mesh_sizes
from experiments.records import RunError
from stn_jax.population import MEMBER
from stn_jax.training import Batch, Prepare

BATCH = "batch"
START_S = 300  # how long process 0 is waited for
SILENCE_S = 20  # after which a process that says nothing is taken for dead


def start(run: Run) -> Mesh | None:
    """Joins the processes of a run, and lays out its devices.

    Of a CPU, it makes as many virtual devices as that takes.

    Returns:
        The mesh that `--mesh` asks for; without it, that of all devices of several processes, or
        none of a single process.

    Raises:
        RunError: if the processes cannot be joined, or there are fewer devices.
    """
    sizes = mesh_sizes(run)
    if sizes:
        with contextlib.suppress(RuntimeError):  # JAX has started: there are as many as there are
            count = math.prod(sizes.values()) // (run.num_processes or 1)
            jax.config.update("jax_num_cpu_devices", count)
    if run.coordinator is not None:
        _join(run)
        sizes = sizes or {BATCH: jax.device_count()}
    return make_mesh(sizes) if sizes else None


def _join(run: Run) -> None:
    """Joins the processes of a run."""
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    if run.process_id:
        _await_first(str(run.coordinator))
    jax.distributed.initialize(
        run.coordinator,
        run.num_processes,
        run.process_id,
        heartbeat_timeout_seconds=SILENCE_S,
        shutdown_timeout_seconds=SILENCE_S,
    )


def _await_first(coordinator: str) -> None:
    """Waits until process 0 is there: JAX itself would abort where it is not.

    Raises:
        RunError: if it does not come.
    """
    host, _, port = coordinator.rpartition(":")
    print(f"waiting for process 0 at {coordinator}", flush=True)
    end = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"--coordinator {coordinator}: no process 0 came in {START_S} s ({error}); it "
                    "may have ended: see what it says"
                ) from None
            time.sleep(0.2)
        else:
            return


def make_mesh(sizes: dict[str, int]) -> Mesh:
    """A mesh of the first devices, with axes of these names and sizes.

    Raises:
        RunError: if there are fewer devices.
    """
    count, there = math.prod(sizes.values()), jax.device_count()
    if count > there or (jax.process_count() > 1 and count != there):
        axes = ",".join(f"{name}={size}" for name, size in sizes.items())
        raise RunError(f"--mesh {axes} takes {count} devices; there are {there}")
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:count],
    )


def member_mesh() -> Mesh | None:
    """All devices in one axis of members; None of a single device."""
    count = jax.device_count()
    return None if count == 1 else make_mesh({MEMBER: count})


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """Where arrays lie that every device has whole; None where there is one device."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The arrays on every device of a mesh; where there is none, as they are.

    Every process has to give the same.
    """
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def shard_batches(prepare: Prepare, mesh: Mesh | None) -> Prepare:
    """`prepare`, its batches spread over the mesh: from there on all that is computed of them.

    A batch that cannot be parted equally, as of an evaluation, is computed everywhere.
    """
    if mesh is None or BATCH not in mesh.axis_names:
        return prepare

    def sharded(keys: jax.Array, batch: Batch) -> Batch:
        if len(keys) % mesh.shape[BATCH]:
            return prepare(keys, batch)
        # Stored images are whole on every device, since clutter is made of others of the batch:
        # picked by parts, they would have to be gathered again.
        batch = _laid_out(batch, mesh, PartitionSpec())
        return _laid_out(prepare(keys, batch), mesh, PartitionSpec(BATCH))

    return sharded


def _laid_out(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    # Inside `shard_map` over members, the mesh is another: the one of the context.
    context = jax.sharding.get_abstract_mesh()
    sharding = NamedSharding(mesh if context.empty else context, spec)
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), tree)


def from_first(tree: Any) -> Any:
    """What process 0 has of a tree of arrays that are alike in all processes."""
    return multihost_utils.broadcast_one_to_all(tree)


def largest(number: int) -> int:
    """The largest of the numbers that the processes give."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))
