"""Search among discrete architectures.

Random, evolutionary, guided by a score or a policy, in halvings.
"""

from jaxdarts.discrete import enas as enas
from jaxdarts.discrete import hyperband as hyperband
from jaxdarts.discrete import studies as studies
from jaxdarts.discrete.algorithms import History as History
from jaxdarts.discrete.algorithms import Longer as Longer
from jaxdarts.discrete.algorithms import Proposals as Proposals
from jaxdarts.discrete.algorithms import Schedule as Schedule
from jaxdarts.discrete.algorithms import Score as Score
from jaxdarts.discrete.algorithms import Starts as Starts
from jaxdarts.discrete.algorithms import advance as advance
from jaxdarts.discrete.algorithms import arguments_of as arguments_of
from jaxdarts.discrete.algorithms import assisted_evolution as assisted_evolution
from jaxdarts.discrete.algorithms import best as best
from jaxdarts.discrete.algorithms import best_of as best_of
from jaxdarts.discrete.algorithms import best_so_far as best_so_far
from jaxdarts.discrete.algorithms import bracket as bracket
from jaxdarts.discrete.algorithms import check_lengths as check_lengths
from jaxdarts.discrete.algorithms import flattest as flattest
from jaxdarts.discrete.algorithms import neighbourhood_search as neighbourhood_search
from jaxdarts.discrete.algorithms import random_search as random_search
from jaxdarts.discrete.algorithms import ranked as ranked
from jaxdarts.discrete.algorithms import regularized_evolution as regularized_evolution
from jaxdarts.discrete.algorithms import samples as samples
from jaxdarts.discrete.algorithms import schedule as schedule
from jaxdarts.discrete.algorithms import search as search
from jaxdarts.discrete.algorithms import successive_halving as successive_halving
from jaxdarts.discrete.policy import reinforce as reinforce
