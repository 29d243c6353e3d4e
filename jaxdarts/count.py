"""Parameters and multiply-adds, from shapes alone: nothing is computed or allocated."""

import itertools
import math
from collections.abc import Callable, Mapping

import jax

from jaxdarts import spaces
from jaxdarts.genotypes import AnyGenotype
from jaxdarts.nn import costs
from jaxdarts.nn.cnn import runs
from jaxdarts.nn.costs import Costs as Costs
from jaxdarts.space import Space, of_genotype
from jaxdarts.types import Choices, Module


def count_params(net: Module, image_shape: tuple[int, ...] = ()) -> int:
    """Number of weights of a network for images of [height, width, channels].

    An auxiliary head is not counted.

    A language model has no images: leave the shape out.

    >>> from jaxdarts import genotypes, spaces
    >>> net = spaces.darts().network(genotypes.DARTS_V2, width=36, depth=20, num_classes=10)
    >>> count_params(net, (32, 32, 3))
    3349342
    """
    variables = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs(image_shape))
    params = {
        name: w for name, w in variables.get("params", {}).items() if name != "auxiliary_head"
    }
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def operation_costs(
    cells: Mapping[str, Choices],
    width: int,
    depth: int,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> tuple[Costs, Costs]:
    """Parameters and multiply-adds of all parts that a discrete network of these cells may have.

    `nn.costs` says what is counted.

    These are cells of DARTS' operations, or one cell of NAS-Bench-201. A space with operations of
    your own has the same as `Space.costs`. The depth is the number of cells, or of cells a stage
    for NAS-Bench-201.

    Raises:
        ValueError: if `imagenet` is asked for of a cell of NAS-Bench-201, which has one stem only,
            or if what an operation costs depends on the others, as in the spaces of NAS-Bench-101
            and of sizes.
    """
    counts: dict[tuple[str, ...], Callable[..., tuple[Costs, Costs]]] = {
        ("normal", "reduce"): costs.two_cells,
        ("cell",): costs.one_cell,
    }
    count = counts.get(tuple(sorted(cells)))
    if count is None:
        raise ValueError(
            "in this space the cost of an operation depends on the other choices: it has no table"
            " of costs"
        )
    return count(cells, width, depth, num_classes, image_shape, imagenet)


def check_image_shape(
    genotype: AnyGenotype, depth: int | None, image_shape: tuple[int, int, int], imagenet: bool
) -> None:
    """Refuses images whose height or width is odd before a reduction, where it cannot be halved.

    Raises:
        ValueError: if so; tells the next size that can.
    """
    check_cells(of_genotype(genotype), depth, image_shape, imagenet)


def check_cells(
    cells: Mapping[str, Choices],
    depth: int | None,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
) -> None:
    """Refuses images that a network or supernet of these cells cannot halve.

    An edge has one operation or several, as in a supernet. Errors as of `check_image_shape`.
    """
    height, width, _ = image_shape
    if min(image_shape) < 1:
        raise ValueError(
            f"images of {' x '.join(map(str, image_shape))}: height, width and channels must be"
            " positive"
        )
    kinds = ["reduce"] * 2  # in the benchmarks' networks, where each needs an even state
    strided = True
    if "reduce" in cells:
        kinds = [run.kind for run in runs(1, depth or 1) for _ in range(run.repeats)]
        strided = any(
            "skip_connect" in ops and source < 2
            for (source, _), ops in zip(cells["reduce"].edges, cells["reduce"].ops)
        )

    def fits(side: int) -> bool:
        before, last = (-(-side // 4), -(-side // 8)) if imagenet else (side, side)
        for kind in kinds:
            if before != last and before % 2 or kind == "reduce" and strided and last % 2:
                return False
            before, last = last, -(-last // 2) if kind == "reduce" else last
        return True

    if not (fits(height) and fits(width)):
        next_height, next_width = (
            next(size for size in itertools.count(side) if fits(size)) for side in (height, width)
        )
        raise ValueError(
            f"images of {height}x{width}: height and width must be even before every reduction of"
            f" the network; the next size is {next_height}x{next_width}"
            f" (--image_size={max(next_height, next_width)})"
        )


def network_cost(
    genotype: AnyGenotype,
    width: int | None,
    depth: int | None,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
    space: Space | None = None,
) -> tuple[int, int]:
    """Parameters and multiply-adds of the network that a genotype is trained as.

    `nn.costs` says what is counted.

    Args:
        genotype: what to count.
        width, depth: as of the space's `network`; None for sizes, which have both themselves.
        num_classes, image_shape: of the images, [height, width, channels].
        imagenet: with the stem for large images.
        space: the genotype's space; by default the library's own (`spaces.of`).

    >>> from jaxdarts import genotypes
    >>> network_cost(genotypes.DARTS_V2, 36, 20, 10, (32, 32, 3))[0]
    3349342

    Raises:
        ValueError: if a size is not positive; if `imagenet` is asked for of a benchmark's network,
          which has one stem only; if the costs of the space are not counted; or if no such network
          can be built for images of that size, as of `check_image_shape`.
    """
    space = spaces.of(genotype) if space is None else space
    if space.cost is None:
        raise ValueError(f"the costs of networks of {space.title} are not counted")
    for name, size in (("width", width), ("depth", depth), ("num_classes", num_classes)):
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}; it must be positive")
    check_image_shape(genotype, depth, image_shape, imagenet)
    return space.cost(genotype, width, depth, num_classes, image_shape, imagenet)


def multiply_adds(
    genotype: AnyGenotype,
    width: int | None,
    depth: int | None,
    num_classes: int,
    image_shape: tuple[int, int, int],
    imagenet: bool = False,
    space: Space | None = None,
) -> int:
    """Multiply-adds for one image; the second part of `network_cost`.

    >>> from jaxdarts import genotypes
    >>> round(multiply_adds(genotypes.DARTS_V2, 36, 20, 10, (32, 32, 3)) / 1e6, 1)
    528.4
    """
    return network_cost(genotype, width, depth, num_classes, image_shape, imagenet, space)[1]
