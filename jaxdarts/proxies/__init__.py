"""Scores of networks that have not been trained (zero-cost proxies)."""

from jaxdarts.proxies import rectifiers as rectifiers
from jaxdarts.proxies.scores import Agreements as Agreements
from jaxdarts.proxies.scores import Apply as Apply
from jaxdarts.proxies.scores import Layers as Layers
from jaxdarts.proxies.scores import Score as Score
from jaxdarts.proxies.scores import agreements as agreements
from jaxdarts.proxies.scores import declared as declared
from jaxdarts.proxies.scores import epe_nas as epe_nas
from jaxdarts.proxies.scores import fisher as fisher
from jaxdarts.proxies.scores import gaussian as gaussian
from jaxdarts.proxies.scores import grad_norm as grad_norm
from jaxdarts.proxies.scores import grasp as grasp
from jaxdarts.proxies.scores import jacob_cov as jacob_cov
from jaxdarts.proxies.scores import l2_norm as l2_norm
from jaxdarts.proxies.scores import layers as layers
from jaxdarts.proxies.scores import linear_regions as linear_regions
from jaxdarts.proxies.scores import naswot as naswot
from jaxdarts.proxies.scores import ntk_condition as ntk_condition
from jaxdarts.proxies.scores import parameters as parameters
from jaxdarts.proxies.scores import plain as plain
from jaxdarts.proxies.scores import snip as snip
from jaxdarts.proxies.scores import synflow as synflow
from jaxdarts.proxies.scores import zen as zen
