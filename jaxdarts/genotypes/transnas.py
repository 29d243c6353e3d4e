"""The text of TransNAS-Bench-101's micro cells.

They have NAS-Bench-201's edges and four of its operations. `64-41414-1_02_333` is a network of 64
channels at its beginning, of five modules (1 keeps the shape, 4 doubles the channels and halves the
map), and of the cell 1_02_333: a digit for each edge, the nodes' apart, 0 for none, 1 for a skip
connection, 2 and 3 for a 1x1 and a 3x3 convolution.

Duan et al., `TransNAS-Bench-101 <https://arxiv.org/abs/2105.11871>`_, CVPR 2021.
"""

import itertools
import re
import reprlib

from jaxdarts.genotypes.cells import AnyGenotype, TopologyGenotype, all_edges

TRANSNAS_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
"""What a cell of TransNAS-Bench-101's micro space may name, in the benchmark's order."""
SKELETON = "64-41414"
"""Channels and modules of all networks of the micro space."""


def from_transnas(text: str) -> TopologyGenotype:
    """Reads a cell of the micro space; `parse` does, too.

    Raises:
        ValueError: if the text is not one.

    >>> print(from_transnas("64-41414-1_02_333"))
    |skip_connect~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|
    """
    match = re.fullmatch(r"\s*([0-9]+-[0-9]+)-([0-3])_([0-3]{2})_([0-3]{3})\s*", text, re.ASCII)
    if match is None:
        raise ValueError(
            f"{reprlib.repr(text)} is no cell of TransNAS-Bench-101, such as {SKELETON}-1_02_333"
        )
    if match[1] != SKELETON:
        raise ValueError(
            f"{reprlib.repr(text)}: the cells of the micro space are in {SKELETON} networks, not in"
            f" {match[1]}"
        )
    digits = "".join(match.groups()[1:])
    pairs = zip(digits, all_edges())
    return TopologyGenotype(tuple((TRANSNAS_OPS[int(op)], source) for op, (source, _) in pairs))


def to_transnas(genotype: AnyGenotype) -> str:
    """Writes a cell of the micro space in the benchmark's form.

    Raises:
        ValueError: if it is not one.

    >>> to_transnas(from_transnas("64-41414-1_02_333"))
    '64-41414-1_02_333'
    """
    edges = tuple(itertools.islice(all_edges(), 6))
    if not isinstance(genotype, TopologyGenotype) or [source for _, source in genotype.cell] != [
        source for source, _ in edges
    ]:
        raise ValueError(f"{genotype} is no cell of three nodes, as TransNAS-Bench-101's are")
    for op, source in genotype.cell:
        if op not in TRANSNAS_OPS:
            raise ValueError(
                f"{(op, source)}: TransNAS-Bench-101 has the operations {', '.join(TRANSNAS_OPS)}"
            )
    digits = "".join(str(TRANSNAS_OPS.index(op)) for op, _ in genotype.cell)
    return f"{SKELETON}-{digits[0]}_{digits[1:3]}_{digits[3:]}"
