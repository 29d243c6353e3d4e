"""Checkpoints of a run: a tree of arrays and the configuration that it belongs to, by orbax, in
numbered folders.

Where one program runs in several processes, the first one writes for all of them; each may have a
folder of its own.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager
else:  # orbax takes a second to import: the functions below import it when they need it
    CheckpointManager = Any


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line for the user."""


@contextlib.contextmanager
def open_folder(folder: str | Path, keep: int | None = 2) -> Iterator[CheckpointManager]:
    """A manager of the checkpoints in a folder; keeps the newest `keep`, or all. Removes what a
    killed save left half written.

    Raises:
        CheckpointError: if the folder cannot be made or written.
    """
    import orbax.checkpoint as ocp

    # There is no public name for this class, which tells random keys from numbers.
    from orbax.checkpoint._src.metadata.array_metadata_store import Store

    folder = Path(folder).absolute()  # orbax wants absolute paths
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot use {folder} for checkpoints: it is a file")
    alone, handlers = ocp.options.MultiprocessingOptions(), None
    if (
        jax.process_count() > 1
    ):  # orbax would have all processes write their share, and wait for each other
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(None, {process}, f"process_{process}")
        types = ocp.type_handlers.create_type_handler_registry(
            (
                jax.Array,
                ocp.type_handlers.ArrayHandler(
                    None, use_replica_parallel=False, array_metadata_store=Store()
                ),
            )
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(
                multiprocessing_options=alone, type_handler_registry=types
            ),
            "config": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        }
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
        create=False,
        multiprocessing_options=alone,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manager = ocp.CheckpointManager(folder, options=options, item_handlers=handlers)
    except OSError as error:
        raise CheckpointError(f"cannot use {folder} for checkpoints: {error}") from error
    try:
        yield manager
    finally:
        manager.close()


def save(manager: CheckpointManager, step: int, tree: Any, config: Mapping[str, Any]) -> None:
    """Writes a checkpoint and waits for it. What was there before stays until the new one is
    complete.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk.
    """
    import orbax.checkpoint as ocp

    if jax.process_index() or step in manager.all_steps():
        return
    several = jax.process_count() > 1
    state = (
        ocp.args.PyTreeSave(jax.tree.map(_of_all, tree)) if several else ocp.args.StandardSave(tree)
    )
    try:
        manager.save(
            step, args=ocp.args.Composite(state=state, config=ocp.args.JsonSave(dict(config)))
        )
        manager.wait_until_finished()
    except (OSError, ValueError) as error:
        reason = "the disk is full" if "No space left" in str(error) else str(error).splitlines()[0]
        raise CheckpointError(
            f"cannot write checkpoint {step} into {manager.directory}: {reason}; newest complete:"
            f" {manager.latest_step()}"
        ) from error


def restore(
    manager: CheckpointManager,
    like: Any,
    config: Mapping[str, Any] | None,
    step: int | None = None,
) -> Any:
    """Reads a complete checkpoint.

    Args:
        manager: from `open_folder`.
        like: a tree of the same structure, shapes and types; its values are not used.
        config: the configuration to continue with; None to go on with another one, which `like` has
          to fit.
        step: whose checkpoint; None for the newest.

    Raises:
        CheckpointError: if there is none, or it was written under another configuration: tells the
          first difference.
    """
    import orbax.checkpoint as ocp

    kept = manager.all_steps()
    if not kept:
        raise CheckpointError(f"{manager.directory} has no complete checkpoint")
    step = max(kept) if step is None else step
    if step not in kept:
        raise CheckpointError(
            f"{manager.directory} has no checkpoint of step {step}, only"
            f" {', '.join(map(str, sorted(kept)))}"
        )
    try:
        saved = manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))[
            "config"
        ]
        config = saved if config is None else config
        differing = [
            name for name in sorted({*saved, *config}) if saved.get(name) != config.get(name)
        ]
        if not differing:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            state = ocp.args.StandardRestore(abstract)
            if jax.process_count() > 1:
                state = ocp.args.PyTreeRestore(
                    abstract, ocp.checkpoint_utils.construct_restore_args(abstract)
                )
            return manager.restore(step, args=ocp.args.Composite(state=state))["state"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"cannot read checkpoint {step} in {manager.directory}: {str(error).splitlines()[0]}"
        ) from error
    name = differing[0]
    raise CheckpointError(
        f"checkpoint {step} in {manager.directory} was written with {name}={saved.get(name)!r}, "
        f"this run has {name}={config.get(name)!r}"
    )


def _of_all(x: Any) -> Any:
    """An array that all processes have, made of this one's: orbax takes no other from one of
    several.
    """
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            _of_all(jax.random.key_data(x)), impl=jax.random.key_impl(x)
        )
    one_each = [jax.local_devices(process)[0] for process in range(jax.process_count())]
    everywhere = jax.sharding.NamedSharding(
        jax.sharding.Mesh(one_each, ("processes",)), jax.sharding.PartitionSpec()
    )
    return jax.make_array_from_callback(x.shape, everywhere, lambda _: x)
