"""The devices of a training, as a mesh: one axis for the examples of a batch, one for members.

All other arrays are replicated. Values depend on the devices only through the rounding of sums,
because random numbers are drawn per example.
"""

import contextlib
import math
import operator
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.runs.checkpoints import Snapshot, from_storable, to_storable
from experiments.runs.records import RunError
from experiments.settings.config import Run
from experiments.settings.errors import ConfigError
from experiments.settings.machine import num_cores
from experiments.settings.validation import mesh_sizes
from stn_jax.training import Batch, Preprocess, TrainState
from stn_jax.training.population import MEMBER

BATCH = "batch"
START_TIMEOUT_S = 300  # for process 0 to start
# The variables in which SLURM and Open MPI pass the number of processes.
PROCESS_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
HEARTBEAT_TIMEOUT_S = 20  # after which a silent process counts as dead
END_TIMEOUT_S = 24 * 3600  # for process 0 to write the results, while the others wait

# --- Devices --------------------------------------------------------------------------------------


def make_virtual_devices(count: int) -> None:
    """Divides a CPU into virtual devices. Does nothing once JAX has started, or on accelerators."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def start(run: Run) -> Mesh | None:
    """Joins the processes of a run, and makes the mesh of its devices.

    Processes that have been joined are not joined again.

    Returns:
        The mesh that `--mesh` requests. Without it: the mesh of all devices of several processes,
        or None for a single process.

    Raises:
        RunError: if the processes cannot be joined, or if there are too few devices.
    """
    sizes = mesh_sizes(run)
    if sizes:
        make_virtual_devices(math.prod(sizes.values()) // _num_processes(run))
    if run.coordinator is not None or run.distributed:
        if not jax.distributed.is_initialized():
            _join(run)
        sizes = sizes or {BATCH: jax.device_count()}
    return make_mesh(sizes) if sizes else None


def writes_records(run: Run) -> bool:
    """Whether this process is the first of a run. Joins the processes of a job."""
    if not run.distributed:
        return not run.process_id
    start(run)
    return jax.process_index() == 0


def _num_processes(run: Run) -> int:
    """The number of processes, before they have been joined. TPU pods do not tell it."""
    counts = [os.environ.get(name, "") for name in PROCESS_COUNTS if run.distributed]
    return run.num_processes or next((int(each) for each in counts if each.isdecimal()), 1)


def _join(run: Run) -> None:
    """Joins the processes of a run."""
    # JAX's preemption service would replace our handler of SIGTERM.
    jax.config.update("jax_enable_preemption_service", False)
    if run.process_id:
        _await_first(str(run.coordinator))
    try:
        jax.distributed.initialize(
            run.coordinator,
            run.num_processes,
            run.process_id,
            initialization_timeout=START_TIMEOUT_S,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            shutdown_timeout_seconds=END_TIMEOUT_S,
        )
    except ValueError as error:
        if not run.distributed:
            raise
        raise ConfigError(
            "--distributed must be used in a process that SLURM's srun, Open MPI's mpirun or a "
            "TPU pod started; otherwise give --coordinator, --num-processes and --process-id"
        ) from error


def _await_first(coordinator: str) -> None:
    """Waits until process 0 accepts connections. JAX itself would abort if it does not.

    Raises:
        RunError: after the timeout.
    """
    host, _, port = coordinator.rpartition(":")
    print(f"waiting for process 0 at {coordinator}", flush=True)
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(
                    f"--coordinator {coordinator}: process 0 did not start in {START_TIMEOUT_S} s "
                    f"({error}); it may have ended: see its output"
                ) from None
            time.sleep(0.2)
        else:
            return


def make_mesh(sizes: dict[str, int]) -> Mesh:
    """A mesh of the first devices, with axes of these names and sizes.

    Raises:
        RunError: if there are too few devices.
    """
    count, available = math.prod(sizes.values()), jax.device_count()
    if count > available or (jax.process_count() > 1 and count != available):
        axes = ",".join(f"{name}={size}" for name, size in sizes.items())
        raise RunError(f"--mesh {axes} takes {count} devices; there are {available}")
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:count],
    )


def member_mesh(most: int | None = None, *, divides: int | None = None) -> Mesh | None:
    """A mesh of all devices, with an axis of members.

    A CPU gets a virtual device for each core, on which members train fastest.

    Args:
        most: uses at most this many devices.
        divides: the number of members, if they must divide equally over all devices.

    Returns:
        None for one device, or if the members do not divide.
    """
    make_virtual_devices(num_cores())
    count = min(most or jax.device_count(), jax.device_count())
    if count == 1 or (divides is not None and divides % count):
        return None
    return make_mesh({MEMBER: count})


def start_members(run: Run) -> Mesh | None:
    """The mesh that a sweep trains members on: that of `--mesh`, or of all devices.

    Raises:
        RunError: if there are too few devices.
    """
    return member_mesh() if run.mesh is None else start(run)


# --- Arrays ---------------------------------------------------------------------------------------


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of replicated arrays; None for one device."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Puts arrays on every device of a mesh. Without a mesh, returns them as they are.

    Every process must give the same values.
    """
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data, impl = jax.random.key_data(leaf), jax.random.key_impl(leaf)
            return jax.random.wrap_key_data(put(data), impl=impl)
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def stack_members(states: Sequence[TrainState], mesh: Mesh | None) -> TrainState:
    """States with a leading axis of members, spread as `population.over_members` returns them.

    With another sharding, every function would be compiled twice.
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    if mesh is None:
        return stacked
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(MEMBER)))


@jax.jit  # one program instead of one for each leaf
def take_member(states: TrainState, index: int) -> TrainState:
    """The state of one member."""
    return jax.tree.map(operator.itemgetter(index), states)


def unstack_members(states: TrainState, count: int) -> list[TrainState]:
    """The states of the first `count` members, on one device: on a mesh, each would take 50 ms."""
    states = jax.device_put(states, jax.devices()[0])
    return [take_member(states, i) for i in range(count)]


def shard_batches(preprocess: Preprocess, mesh: Mesh | None) -> Preprocess:
    """Spreads preprocessed batches over a mesh, and so everything computed from them.

    A batch that does not divide equally, as in an evaluation, is computed on every device.
    """
    if mesh is None or BATCH not in mesh.axis_names:
        return preprocess

    def sharded(keys: jax.Array, batch: Batch) -> Batch:
        if len(keys) % mesh.shape[BATCH]:
            return preprocess(keys, batch)
        # Stored images stay whole on every device, because clutter is cut from others of the
        # batch: sharded images would have to be gathered again.
        batch = _constrained(batch, mesh, PartitionSpec())
        return _constrained(preprocess(keys, batch), mesh, PartitionSpec(BATCH))

    return sharded


def _constrained(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    # `shard_map` over members replaces the mesh by the one of the context.
    context = jax.sharding.get_abstract_mesh()
    sharding = NamedSharding(mesh if context.empty else context, spec)
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding), tree)


# --- Processes ------------------------------------------------------------------------------------


def snapshot_of_first(snapshot: Snapshot) -> Snapshot:
    """The snapshot that process 0 has read, in every process."""
    if jax.process_count() == 1:
        return snapshot
    stored = multihost_utils.broadcast_one_to_all(to_storable(snapshot))
    return from_storable(jax.tree.map(np.asarray, stored), snapshot.state)


def largest(number: int) -> int:
    """The largest of the numbers that the processes give."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))
