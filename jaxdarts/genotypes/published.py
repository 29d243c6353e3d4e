"""The published genotypes, as data.

Their names here are those by which the field and the scripts know them.
"""

from collections.abc import Mapping
from types import MappingProxyType

from jaxdarts.genotypes.cells import AnyGenotype, Genotype, Pairs, RecurrentGenotype

_SHORT = {
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "skip": "skip_connect",
    "conv7": "conv_7x1_1x7",
}
_SHORT |= {f"{kind}{k}": f"{kind}_conv_{k}x{k}" for kind in ("sep", "dil") for k in (3, 5, 7)}


def _pairs(text: str) -> Pairs:
    words = (word.split(":") for word in text.replace("|", " ").split())
    return tuple((_SHORT.get(op, op), int(source)) for op, source in words)


def _cells(
    normal: str, reduce: str, normal_concat=(2, 3, 4, 5), reduce_concat=(2, 3, 4, 5)
) -> Genotype:
    return Genotype(_pairs(normal), normal_concat, _pairs(reduce), reduce_concat)


def _recurrent(text: str, concat=(1, 2, 3, 4, 5, 6, 7, 8)) -> RecurrentGenotype:
    return RecurrentGenotype(_pairs(text), concat)


# fmt: off
# Liu, Simonyan & Yang, DARTS: Differentiable Architecture Search, ICLR 2019: first order, second
# order.
DARTS_V1 = _cells("sep3:1 sep3:0 | skip:0 sep3:1 | skip:0 sep3:1 | sep3:0 skip:2",
                  "max:0 max:1 | skip:2 max:0 | max:0 skip:2 | skip:2 avg:0")
DARTS_V2 = _cells("sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:1 skip:0 | skip:0 dil3:2",
                  "max:0 max:1 | skip:2 max:1 | max:0 skip:2 | skip:2 max:1")
DARTS = DARTS_V2
# Zoph et al., Learning Transferable Architectures for Scalable Image Recognition, CVPR 2018
# (NASNet-A).
NASNet = _cells("sep5:1 sep3:0 | sep5:0 sep3:0 | avg:1 skip:0 | avg:0 avg:0 | sep3:1 skip:1",
                "sep5:1 sep7:0 | max:1 sep7:0 | avg:1 sep5:0 | skip:3 avg:2 | sep3:2 max:1",
                (2, 3, 4, 5, 6), (4, 5, 6))
# Real, Aggarwal, Huang & Le, Regularized Evolution for Image Classifier Architecture Search, AAAI
# 2019 (AmoebaNet-A).
AmoebaNet = _cells("avg:0 max:1 | sep3:0 sep5:2 | sep3:0 avg:3 | sep3:1 skip:1 | skip:0 avg:1",
                   "avg:0 sep3:1 | max:0 sep7:2 | sep7:0 avg:1 | max:0 max:1 | conv7:0 sep3:5",
                   (4, 5, 6), (3, 4, 6))
# Xu et al., PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search, ICLR
# 2020.
PC_DARTS_cifar = _cells("sep3:1 skip:0 | sep3:0 dil3:1 | sep5:0 sep3:1 | avg:0 dil3:1",
                        "sep5:1 max:0 | sep5:1 sep5:2 | sep3:0 sep3:3 | sep3:1 sep3:2")
PC_DARTS_image = _cells("skip:1 sep3:0 | sep3:0 skip:1 | sep3:1 sep3:3 | sep3:1 dil5:4",
                        "sep3:0 skip:1 | dil5:2 max:1 | sep3:2 sep3:1 | sep5:0 sep3:3")
PCDARTS = PC_DARTS_cifar
# Chen, Xie, Wu & Tian, Progressive Differentiable Architecture Search, ICCV 2019.
PDARTS = _cells("skip:0 dil3:1 | skip:0 sep3:1 | sep3:1 sep3:3 | sep3:0 dil5:4",
                "avg:0 sep5:1 | sep3:0 dil5:2 | max:0 dil3:1 | dil3:1 dil5:3")
# Dong & Yang, Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019. The last
# source is 1 in the authors' own list, which we follow; it is 2 in FairDARTS' list and what was
# copied from there.
GDAS_V1 = _cells("skip:0 skip:1 | skip:0 sep5:2 | sep3:3 skip:0 | sep5:4 sep3:3",
                 "sep5:0 sep3:1 | sep5:2 sep5:1 | dil5:2 sep3:1 | sep5:0 sep5:1")
# Xie, Zheng, Liu & Lin, SNAS: Stochastic Neural Architecture Search, ICLR 2019.
SNAS = _cells("sep3:0 sep3:1 | skip:0 dil3:1 | skip:1 skip:0 | skip:0 sep3:1",
              "max:0 max:1 | max:1 skip:2 | skip:2 max:1 | max:0 dil5:2")
# Chen, Wang, Cheng, Tang & Hsieh, DrNAS: Dirichlet Neural Architecture Search, ICLR 2021.
DrNAS_cifar10 = _cells("sep3:0 sep5:1 | sep3:1 sep3:2 | skip:0 sep3:1 | sep3:2 dil5:3",
                       "max:0 sep5:1 | dil5:2 sep5:1 | sep5:1 dil5:3 | skip:4 sep5:1")
DrNAS_imagenet = _cells("sep3:1 sep3:0 | sep3:0 sep3:1 | sep3:0 dil3:3 | skip:0 sep3:1",
                        "max:0 sep3:1 | sep3:0 skip:2 | sep3:0 sep3:2 | sep3:3 sep3:1")

# Chen & Hsieh, Stabilizing Differentiable Architecture Search via Perturbation-based
# Regularization, ICML 2020. A name tells data set, space (S1-S4 of RobustDARTS; S5 is DARTS' own),
# random (SDARTS-RS) or adversarial noise (SDARTS-ADV).
c10_s1_random = _cells("dil5:1 dil3:0 | sep3:1 skip:2 | dil3:3 sep3:2 | sep3:0 dil3:2",
                       "max:0 dil3:1 | dil5:2 max:1 | dil5:3 sep3:1 | dil5:2 dil5:3")
c10_s1_pgd = _cells("dil5:1 dil3:0 | sep3:1 skip:2 | sep3:2 dil3:3 | sep3:0 dil3:2",
                    "max:0 dil3:1 | dil5:2 max:0 | dil5:3 dil3:2 | dil5:4 dil5:2")
c10_s2_random = _cells("sep3:0 sep3:1 | sep3:2 skip:1 | sep3:3 skip:0 | sep3:1 skip:2",
                       "sep3:0 sep3:1 | sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:2 sep3:3")
c10_s2_pgd = _cells("sep3:1 skip:0 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:1",
                    "skip:0 skip:1 | sep3:0 sep3:2 | sep3:3 sep3:0 | sep3:4 sep3:3")
c10_s3_random = _cells("sep3:1 sep3:0 | sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:4 skip:0",
                       "skip:0 sep3:1 | sep3:2 sep3:0 | sep3:2 sep3:3 | sep3:0 sep3:4")
c10_s3_pgd = _cells("sep3:1 sep3:0 | sep3:0 sep3:2 | sep3:1 sep3:0 | sep3:1 skip:0",
                    "sep3:1 sep3:0 | sep3:2 sep3:0 | sep3:2 sep3:0 | sep3:1 sep3:3")
c10_s4_random = _cells("sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:4 sep3:2",
                       "sep3:0 sep3:1 | sep3:0 sep3:2 | sep3:0 sep3:3 | sep3:0 sep3:4")
c10_s4_pgd = _cells("sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:3 sep3:4",
                    "sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:2 sep3:3 | sep3:3 sep3:4")
c10_s5_random = _cells("sep3:1 sep3:0 | sep5:1 skip:0 | sep3:3 skip:1 | sep3:1 dil3:2",
                       "max:0 sep3:1 | skip:2 max:0 | dil5:3 max:0 | sep3:2 sep5:3")
c10_s5_pgd = _cells("sep3:0 sep3:1 | sep3:1 skip:0 | sep5:0 dil3:3 | dil3:4 skip:0",
                    "max:0 sep5:1 | skip:2 max:0 | skip:3 skip:2 | skip:2 sep5:4")
c100_s1_random = _cells("dil3:0 skip:1 | dil3:2 sep3:1 | dil3:3 sep3:2 | skip:0 dil3:4",
                        "max:0 max:1 | dil5:2 max:1 | dil5:3 dil3:2 | dil5:4 dil5:3")
c100_s1_pgd = _cells("dil5:1 dil3:0 | dil3:2 sep3:1 | dil3:3 sep3:2 | dil3:2 sep3:0",
                     "dil3:1 max:0 | dil5:2 max:0 | dil5:3 sep3:1 | dil5:3 dil5:4")
c100_s2_random = _cells("sep3:0 sep3:1 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:3",
                        "sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:1 | sep3:4 skip:0")
c100_s2_pgd = _cells("skip:0 sep3:1 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:4 sep3:3",
                     "sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:3 sep3:4")
c100_s3_random = _cells("sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:1 sep3:0 | sep3:4 sep3:1",
                        "sep3:0 sep3:1 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:4 sep3:3")
c100_s3_pgd = _cells("sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:1 sep3:2 | sep3:2 sep3:1",
                     "skip:1 sep3:0 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:3")
c100_s4_random = _cells("sep3:0 sep3:1 | sep3:2 sep3:0 | sep3:2 sep3:3 | sep3:3 sep3:2",
                        "sep3:0 sep3:1 | sep3:2 sep3:0 | sep3:3 sep3:2 | sep3:4 sep3:3")
c100_s4_pgd = _cells("sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:1 sep3:0 | sep3:0 sep3:2",
                     "sep3:0 sep3:1 | sep3:1 sep3:0 | sep3:1 sep3:3 | sep3:3 sep3:4")
svhn_s1_random = _cells("skip:0 dil5:1 | skip:1 skip:0 | skip:2 skip:0 | skip:1 skip:2",
                        "max:0 dil3:1 | dil5:2 max:0 | dil5:3 dil3:2 | dil5:2 dil5:3")
svhn_s1_pgd = _cells("dil3:0 dil5:1 | dil3:2 dil5:0 | dil3:3 sep3:2 | skip:1 sep3:0",
                     "max:0 dil3:1 | dil5:2 max:0 | dil5:3 dil3:2 | dil5:3 dil5:2")
svhn_s2_random = _cells("sep3:1 skip:0 | sep3:2 sep3:0 | sep3:3 skip:1 | skip:0 sep3:4",
                        "sep3:1 skip:0 | sep3:2 sep3:1 | sep3:3 sep3:2 | sep3:3 sep3:4")
svhn_s2_pgd = _cells("skip:0 sep3:1 | sep3:1 sep3:2 | sep3:0 skip:3 | skip:3 skip:4",
                     "sep3:1 sep3:0 | sep3:1 sep3:0 | sep3:3 sep3:0 | skip:3 sep3:0")
svhn_s3_random = _cells("sep3:1 sep3:0 | sep3:2 sep3:1 | sep3:1 sep3:3 | sep3:4 sep3:2",
                        "sep3:1 sep3:0 | sep3:2 skip:0 | sep3:3 sep3:2 | sep3:4 sep3:3")
svhn_s3_pgd = _cells("sep3:1 sep3:0 | sep3:0 skip:2 | skip:3 sep3:1 | skip:2 sep3:0",
                     "sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:2 sep3:1 | sep3:1 sep3:4")
svhn_s4_random = _cells("sep3:1 sep3:0 | sep3:1 sep3:0 | sep3:3 sep3:1 | sep3:4 sep3:2",
                        "sep3:1 sep3:0 | sep3:2 sep3:0 | sep3:2 sep3:3 | sep3:4 sep3:0")
svhn_s4_pgd = _cells("sep3:1 sep3:0 | sep3:0 sep3:1 | sep3:0 sep3:1 | sep3:0 sep3:1",
                     "sep3:1 sep3:0 | sep3:1 sep3:2 | sep3:2 sep3:0 | sep3:0 sep3:1")

# Liu et al. 2019, as above, on Penn Treebank: first order, second order.
RNN_DARTS_V1 = _recurrent("relu:0 relu:1 tanh:2 relu:3 relu:4 identity:1 relu:5 relu:1")
RNN_DARTS_V2 = _recurrent("sigmoid:0 relu:1 relu:1 identity:1 tanh:2 sigmoid:5 tanh:3 relu:5")
# Pham, Guan, Zoph, Le & Dean, Efficient Neural Architecture Search via Parameter Sharing, ICML
# 2018.
RNN_ENAS = _recurrent(
    "tanh:0 tanh:1 relu:1 tanh:3 tanh:3 relu:3 relu:4 relu:7 relu:8 relu:8 relu:8",
    (2, 5, 6, 9, 10, 11))
# Chen & Hsieh 2020, as above, on Penn Treebank.
penn_random = _recurrent(
    "sigmoid:0 sigmoid:1 identity:2 sigmoid:1 tanh:2 tanh:2 sigmoid:0 sigmoid:3")
penn_pgd = _recurrent("relu:0 relu:1 tanh:2 relu:3 identity:2 relu:1 tanh:2 relu:7")
# fmt: on

PUBLISHED: Mapping[str, AnyGenotype] = MappingProxyType(
    {name: value for name, value in globals().items() if isinstance(value, AnyGenotype)}
)
"""Every published genotype of this module by its name, for command lines."""
