"""Checkpoints of a run: a tree of arrays and the configuration that it belongs to, by orbax, in
numbered folders, with a checksum of every file.

Where one program runs in several processes, the first one writes for all of them; each may have a
folder of its own.
"""

import contextlib
import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jaxdarts import files

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager
else:  # orbax takes a second to import: the functions below import it when they need it
    CheckpointManager = Any


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line for the user."""


class Unusable(CheckpointError):
    """No checkpoint of a folder can be restored; a second try would end in the same way."""


class OtherConfiguration(Unusable):
    """A checkpoint is intact, but was written under another configuration."""


class Newest(NamedTuple):
    """A restored checkpoint.

    step: its number.
    tree: what was saved.
    unusable: why newer ones were passed over, by step.
    """

    step: int
    tree: Any
    unusable: Mapping[int, str]


CHECKSUMS = "checksums.json"
"""File in a checkpoint's folder: the checksum of every other file there, by name."""


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
        folder = Path(manager.directory) / str(step)
        files.replace_text(folder / CHECKSUMS, json.dumps(_checksums(folder), indent=1) + "\n")
    except (OSError, ValueError) as error:
        reason = "the disk is full" if "No space left" in str(error) else str(error).splitlines()[0]
        raise CheckpointError(
            f"cannot write checkpoint {step} into {manager.directory}: {reason}; newest complete:"
            f" {manager.latest_step()}"
        ) from error


def say(line: str) -> None:
    """Tells the user something where no log is open."""
    print(line, file=sys.stderr)


def restore(
    manager: CheckpointManager,
    like: Any,
    config: Mapping[str, Any] | None,
    step: int | None = None,
    say: Callable[[str], None] = say,
    defaults: Mapping[str, Any] = {},
) -> Any:
    """Reads a complete checkpoint.

    Args:
        manager: from `open_folder`.
        like: a tree of the same structure, shapes and types; its values are not used.
        config: the configuration to continue with; None to go on with another one, which `like` has
          to fit.
        step: whose checkpoint; None for the newest that is intact.
        say: takes a line about each newer checkpoint that cannot be used.
        defaults: of the settings; one that is newer than the checkpoint may have its default.

    Raises:
        Unusable: if there is none, or it was written under another configuration: tells the first
          difference.
    """
    if step is None:
        newest = restore_newest(manager, like, config, defaults)
        for line in newest.unusable.values():
            say(f"{line}; the one of step {newest.step} is taken")
        return newest.tree
    kept = _steps(manager)
    if step not in kept:
        raise Unusable(
            f"{manager.directory} has no checkpoint of step {step}, only"
            f" {', '.join(map(str, sorted(kept)))}"
        )
    return _read(manager, step, like, config, defaults)


def restore_newest(
    manager: CheckpointManager,
    like: Any,
    config: Mapping[str, Any] | None,
    defaults: Mapping[str, Any] = {},
) -> Newest:
    """Reads the newest checkpoint that is intact; arguments and errors as of `restore`."""
    errors: dict[int, Unusable] = {}
    for step in _steps(manager):
        try:
            tree = _read(manager, step, like, config, defaults)
            return Newest(step, tree, {step: str(error) for step, error in errors.items()})
        except OtherConfiguration:  # nothing is damaged: an older one would be no better
            raise
        except Unusable as error:
            errors[step] = error
    first = next(iter(errors.values()))
    if len(errors) == 1:
        raise first
    raise Unusable(f"{first}; {len(errors) - 1} older ones cannot be used either") from first


def set_aside(manager: CheckpointManager, step: int) -> Path:
    """Renames a checkpoint that cannot be used, so that its step can be saved again."""
    folder = Path(manager.directory)
    names = (f"damaged-{step}{suffix}" for suffix in ("", *(f"-{i}" for i in range(1, 1000))))
    aside = next(folder / name for name in names if not (folder / name).exists())
    (folder / str(step)).rename(aside)
    manager.reload()
    return aside


def _steps(manager: CheckpointManager) -> list[int]:
    """The steps that have a checkpoint, the newest first."""
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        raise Unusable(f"{manager.directory} has no complete checkpoint")
    return steps


def _read(
    manager: CheckpointManager,
    step: int,
    like: Any,
    config: Mapping[str, Any] | None,
    defaults: Mapping[str, Any],
) -> Any:
    """The checkpoint of a step, if its files are what was written."""
    import orbax.checkpoint as ocp

    try:
        check(Path(manager.directory) / str(step))
        saved = manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))[
            "config"
        ]
        config = saved if config is None else config
        differing = [
            name
            for name in sorted({*saved, *config})
            if saved.get(name) != config.get(name)
            and (name in saved or not (_off(config[name]) or config[name] == defaults.get(name)))
        ]
        if not differing:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            state = ocp.args.StandardRestore(abstract)
            if jax.process_count() > 1:
                state = ocp.args.PyTreeRestore(
                    abstract, ocp.checkpoint_utils.construct_restore_args(abstract)
                )
            return manager.restore(step, args=ocp.args.Composite(state=state))["state"]
    except (MemoryError, jax.errors.JaxRuntimeError):  # nothing that the file is to blame for
        raise
    except Exception as error:  # orbax raises anything, plain Exceptions too
        reason = (str(error).strip() or repr(error)).splitlines()[0][:300]
        raise Unusable(f"cannot read checkpoint {step} in {manager.directory}: {reason}") from error
    name = differing[0]
    raise OtherConfiguration(
        f"checkpoint {step} in {manager.directory} was written with {name}={saved.get(name)!r}, "
        f"this run has {name}={config.get(name)!r}"
    )


def _off(value: Any) -> bool:
    """Whether a flag that is newer than a checkpoint changes nothing: off, none, no limit."""
    return not value or value == math.inf


def _checksums(folder: Path) -> dict[str, int]:
    """The checksum of every file of a checkpoint, by its name in the folder.

    The arrays' files have none of their own: a changed bit would be read as another weight.
    """
    return {
        str(path.relative_to(folder)): _checksum(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }


def _checksum(path: Path) -> int:
    checksum = 0
    with files.open_regular(path) as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def check(folder: Path) -> None:
    """Raises Damaged if a file of a checkpoint is not as it was written.

    Nothing is known about checkpoints of older versions, nor about that of a process which was
    killed while it wrote the checksums.
    """
    try:
        written = files.read_json(folder / CHECKSUMS, dict[str, int])
    except FileNotFoundError:
        return
    for name, checksum in written.items():
        path = folder / os.path.normpath(name)
        if not path.is_file():
            raise files.Damaged(f"{name} is missing")
        if _checksum(path) != checksum:
            raise files.Damaged(f"{name} is damaged")


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
