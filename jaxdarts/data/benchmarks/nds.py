"""The DARTS space as the network design spaces (NDS) have it.

Trained networks of random cells, of several widths and depths.

Reads the JSON files of Radosavovic, Johnson, Xie, Lo & Dollar, `On Network Design Spaces for Visual
Recognition <https://arxiv.org/abs/1905.13214>`_, ICCV 2019 (github.com/facebookresearch/nds):
`DARTS.json`, `DARTS_fix-w-d.json` and the like, a list of records or two lists, `top` and `mid`. Of
a record counts `net`, with `genotype`, `width` and `depth`, `params`, `flops` and `test_ep_top1`,
the test error in percent after every epoch.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdarts import files, genotypes
from jaxdarts.genotypes import Genotype
from jaxdarts.nn.network import Network
from jaxdarts.space import of_genotype


class Design(NamedTuple):
    """One network: its cells, the channels of the first ones, the number of cells."""

    genotype: Genotype
    width: int
    depth: int


class Row(NamedTuple):
    """One training.

    value, final: test accuracy after the last epoch, in percent; there is no other accuracy.
    seconds: NaN, since the files do not tell: a search in them has a budget of evaluations.
    parameters, multiply_adds: of the network, as the file has them.
    """

    value: float
    final: float
    seconds: float
    parameters: int
    multiply_adds: int

    @property
    def trainings(self) -> Mapping[int, tuple[float, float]]:
        """None that a search may choose among."""
        return {}


def read(path: str | os.PathLike) -> dict[Design, Row]:
    """Reads a file of trainings.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file, or has a network twice, as the sweeps of learning
            rates do; the message names the record.
    """
    try:
        records = files.read_json(path)
        if isinstance(records, dict):
            records = [*records["top"], *records["mid"]]
        if not isinstance(records, list) or not records:
            raise ValueError(
                "a list of records is expected, or an object with the lists top and mid"
            )
    except (ValueError, KeyError, TypeError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise files.Damaged(f"{path} has no trainings of a design space: {reason}") from error
    table: dict[Design, Row] = {}
    for number, record in enumerate(records):
        try:
            design, row = _design(record["net"]), _row(record)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise files.Damaged(
                f"{path}, record {number}:"
                f" {error if isinstance(error, ValueError) else repr(error)}"
            ) from error
        if design in table:
            raise files.Damaged(
                f"{path}, record {number}: a network that an earlier record has trained too"
            )
        table[design] = row
    return table


def network(design: Design, num_classes: int = 10, **options) -> Network:
    """The network of a design; `options` as of `nn.network.Network`."""
    genotypes.check(design.genotype)
    return Network(of_genotype(design.genotype), design.width, design.depth, num_classes, **options)


def _design(net: Any) -> Design:
    if "genotype" not in net:
        raise ValueError("a network without a genotype: only the sweeps of cells are read")
    fields = net["genotype"]
    pairs = {
        name: tuple((op, source) for op, source in fields[name]) for name in ("normal", "reduce")
    }
    genotype = Genotype(
        pairs["normal"],
        tuple(fields["normal_concat"]),
        pairs["reduce"],
        tuple(fields["reduce_concat"]),
    )
    genotypes.check(genotype)
    for name in ("width", "depth"):
        if type(net[name]) is not int or not 1 <= net[name] < 2**31:
            raise ValueError(f"{name} is {net[name]!r:.60}, not a positive number")
    return Design(genotype, net["width"], net["depth"])


def _row(record: Any) -> Row:
    error = record["test_ep_top1"][-1]
    if type(error) not in (int, float) or not 0 <= error <= 100:
        raise ValueError(f"the last test_ep_top1 is {error!r}, no error in percent")
    counts = [record[name] for name in ("params", "flops")]
    for name, count in zip(("params", "flops"), counts):
        # Floats too: the files have some counts as 1.0e9.
        if type(count) not in (int, float) or not (0 <= count < 2**63):
            raise ValueError(f"{name} is {count!r:.60}, no count")
    return Row(100.0 - error, 100.0 - error, math.nan, *map(int, counts))
