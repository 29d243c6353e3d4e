"""Checkpoints of a run: a tree of arrays and the configuration that it belongs to, by orbax, in numbered folders."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line for the user."""


@contextlib.contextmanager
def open_folder(folder: str | Path, keep: int | None = 2) -> Iterator[ocp.CheckpointManager]:
    """A manager of the checkpoints in a folder; keeps the newest `keep`, or all. Removes what a killed save left half written.

    Raises:
        CheckpointError: if the folder cannot be made or written.
    """
    folder = Path(folder).absolute()  # orbax wants absolute paths
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"cannot use {folder} for checkpoints: it is a file")
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=False, create=True
    )
    try:
        manager = ocp.CheckpointManager(folder, options=options)
    except OSError as error:
        raise CheckpointError(f"cannot use {folder} for checkpoints: {error}") from error
    try:
        yield manager
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, step: int, tree: Any, config: Mapping[str, Any]) -> None:
    """Writes a checkpoint and waits for it. What was there before stays until the new one is complete.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk.
    """
    if step in manager.all_steps():
        return
    try:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(tree), config=ocp.args.JsonSave(dict(config))))
        manager.wait_until_finished()
    except (OSError, ValueError) as error:
        reason = "the disk is full" if "No space left" in str(error) else str(error).splitlines()[0]
        raise CheckpointError(
            f"cannot write checkpoint {step} into {manager.directory}: {reason}; newest complete: {manager.latest_step()}"
        ) from error


def restore(manager: ocp.CheckpointManager, like: Any, config: Mapping[str, Any] | None, step: int | None = None) -> Any:
    """Reads a complete checkpoint.

    Args:
        manager: from `open_folder`.
        like: a tree of the same structure, shapes and types; its values are not used.
        config: the configuration to continue with; None to go on with another one, which `like` has to fit.
        step: whose checkpoint; None for the newest.

    Raises:
        CheckpointError: if there is none, or it was written under another configuration: tells the first difference.
    """
    kept = manager.all_steps()
    if not kept:
        raise CheckpointError(f"{manager.directory} has no complete checkpoint")
    step = max(kept) if step is None else step
    if step not in kept:
        raise CheckpointError(f"{manager.directory} has no checkpoint of step {step}, only {', '.join(map(str, sorted(kept)))}")
    try:
        saved = manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]
        config = saved if config is None else config
        differing = [name for name in sorted({*saved, *config}) if saved.get(name) != config.get(name)]
        if not differing:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read checkpoint {step} in {manager.directory}: {str(error).splitlines()[0]}") from error
    name = differing[0]
    raise CheckpointError(
        f"checkpoint {step} in {manager.directory} was written with {name}={saved.get(name)!r}, "
        f"this run has {name}={config.get(name)!r}"
    )
