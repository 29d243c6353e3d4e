"""The records of a search, one history for each seed; and what another search hands over."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdarts import files, genotypes, runs
from jaxdarts.commands.degenerate import convolutions, operations
from jaxdarts.genotypes import Genotype
from jaxdarts.space import Space


class History:
    """One seed's folder: metrics.jsonl, the tracker's run, alphas.npz, genotype.json and
    sizes.json, after every epoch.

    A resumed run drops what was written after `resume_step`, its checkpoint; alphas.npz tells the
    step of every entry.
    """

    def __init__(
        self, config: Any, folder: Path, resume_step: int, space: Space, log: logging.Logger
    ):
        self.folder, self.space = folder, space
        settings = dataclasses.asdict(config)
        self.records = runs.Records(folder, resume_step, config.tracker, settings)
        self.alphas: dict[str, list[np.ndarray]] = {}
        if resume_step:
            try:
                saved = _alphas(folder / "alphas.npz", space)
                kept = saved["step"] <= resume_step
                self.alphas = {name: list(values[kept]) for name, values in saved.items()}
            except (OSError, ValueError) as error:
                log.info("alphas.npz starts anew, the old one cannot be read: %s", error)

    def write(
        self, step: int, record: dict[str, float], mix: Mapping[str, np.ndarray], genotype: Genotype
    ) -> None:
        if step not in self._steps_of_alphas():
            for name, value in {"step": np.int64(step), **mix}.items():
                self.alphas.setdefault(name, []).append(np.asarray(value))
        arrays = {name: np.stack(values) for name, values in self.alphas.items()}
        files.replace_arrays(self.folder / "alphas.npz", arrays)
        files.replace_text(self.folder / "genotype.json", genotypes.to_json(genotype))
        if step not in self.records.steps:
            self.records.write(step, record)
        if "valid_accuracy" in record:
            files.replace_text(
                self.folder / "sizes.json", json.dumps(self.sizes(), indent=2) + "\n"
            )

    @property
    def steps(self) -> set[int]:
        """The steps of which nothing is lost."""
        return self.records.steps.intersection(self._steps_of_alphas())

    def _steps_of_alphas(self) -> list[int]:
        return [int(step) for step in self.alphas.get("step", ())]

    def close(self) -> None:
        """Closes the files that records go to."""
        self.records.close()

    def mix(self, epoch: int | None = None) -> dict[str, Any]:
        """The mix after an epoch, or after the last one."""
        if epoch is None:
            return self._mix(-1)
        for i, record in self.rows():
            if record["epoch"] == epoch:
                return self._mix(i)
        raise runs.Stop(
            f"{self.folder / 'alphas.npz'} has lost its entry of epoch {epoch}, the one that"
            " counts: restore the file from a copy, or search anew with another --run_dir",
            2,
        )

    def _mix(self, i: int) -> dict[str, Any]:
        return {name: values[i] for name, values in self.alphas.items() if name != "step"}

    def rows(self) -> Iterator[tuple[int, dict]]:
        """The records that alphas.npz has entries for, each with the number of its entry."""
        by_step = {record["step"]: record for record in self.records.all}
        for i, step in enumerate(self._steps_of_alphas()):
            if step in by_step:
                yield i, by_step[step]

    def sizes(self) -> dict[str, dict]:
        """The best epoch for every number of convolutions in the cells (MiLeNAS, section 3.3)."""
        best: dict[str, dict] = {}
        for i, record in self.rows():
            genotype = self.space.discretize(self._mix(i))
            size = ",".join(
                str(convolutions(ops)) for ops in operations(self.space, genotype).values()
            )
            if size not in best or record["valid_accuracy"] > best[size]["valid_accuracy"]:
                facts = {name: record[name] for name in ("epoch", "valid_accuracy")}
                best[size] = {**facts, "genotype": str(genotype)}
        return best


def _alphas(path: Path, space: Space) -> dict[str, np.ndarray]:
    """What `History` wrote: the step, and the mix of every cell, of every entry.

    Raises:
        OSError, ValueError: if the file is missing, or holds anything else.
    """
    saved = files.read_arrays(path, ("step", *space.cells))
    steps = saved["step"]
    if steps.ndim != 1 or steps.dtype.kind != "i":
        raise files.Damaged(f"{path}: step is no list of integers")
    for name, choices in space.cells.items():
        shape, values = (len(steps), *choices.shape), saved[name]
        if values.shape != shape or values.dtype.kind != "f" or not np.all(np.isfinite(values)):
            raise files.Damaged(f"{path}: {name} is not of {shape} finite numbers")
    return saved


def folders(config: Any, folder: Path) -> list[Path]:
    """Where each seed's results go: the run folder itself, or a folder in it where there are
    several seeds.
    """
    if config.num_seeds == 1:
        return [folder]
    return [folder / f"seed-{seed}" for seed in range(config.seed, config.seed + config.num_seeds)]


def forked(config: Any, run: runs.Run, training: Any, length: int) -> Any:
    """What another run had after --fork_epoch, saved as this run's first checkpoint; its records up
    to then are taken over.
    """
    source, step = Path(config.fork), (config.fork_epoch + 1) * length
    if not (source / "checkpoints").is_dir():
        raise runs.Stop(f"--fork={source}: not the folder of a search", 2)
    like = runs.saved_form(training, jnp.float32(0))
    try:
        with runs.checkpoint.open_folder(source / "checkpoints", keep=None) as checkpoints:
            saved = runs.checkpoint.restore(checkpoints, like, None, step)
    except runs.checkpoint.Unusable as error:
        raise runs.Stop(f"--fork={source}: {error}; name another --fork_epoch", 2) from error
    for name in ("metrics.jsonl", "alphas.npz"):
        shutil.copy(source / name, run.folder / name)
    runs.checkpoint.save(run.checkpoints, step, saved, runs.frozen(config))
    return runs.Training(saved["state"], saved["sums"])
