"""NAS-Bench-201's supernet with one operation an edge computed, and NASWOT counted as published, against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdarts as jd
from jaxdarts import proxies
from jaxdarts.nn.nasbench201 import Picked, picked
from jaxdarts.space import edges_of_op, locate

SPACE = jd.spaces.nasbench201()
