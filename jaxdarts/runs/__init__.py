"""Runs that can be stopped and resumed.

Folders, checkpoints, records, the loop, signals, several processes and hosts.
"""

from jaxdarts.runs import checkpoint as checkpoint
from jaxdarts.runs import signals as signals
from jaxdarts.runs import writers as writers
from jaxdarts.runs.estimate import devices as devices
from jaxdarts.runs.estimate import estimate as estimate
from jaxdarts.runs.estimate import fits as fits
from jaxdarts.runs.flags import declared as declared
from jaxdarts.runs.flags import flag as flag
from jaxdarts.runs.flags import free as free
from jaxdarts.runs.folder import OF_A_START as OF_A_START
from jaxdarts.runs.folder import Frontend as Frontend
from jaxdarts.runs.folder import Records as Records
from jaxdarts.runs.folder import Run as Run
from jaxdarts.runs.folder import again as again
from jaxdarts.runs.folder import analyses as analyses
from jaxdarts.runs.folder import defaults as defaults
from jaxdarts.runs.folder import folder_of as folder_of
from jaxdarts.runs.folder import frozen as frozen
from jaxdarts.runs.folder import open_folder as open_folder
from jaxdarts.runs.folder import open_run as open_run
from jaxdarts.runs.folder import open_study as open_study
from jaxdarts.runs.folder import origin as origin
from jaxdarts.runs.folder import origin_of as origin_of
from jaxdarts.runs.loop import checkpoint_form as checkpoint_form
from jaxdarts.runs.loop import ends as ends
from jaxdarts.runs.loop import epoch_and_position as epoch_and_position
from jaxdarts.runs.loop import finite as finite
from jaxdarts.runs.loop import kept_step as kept_step
from jaxdarts.runs.loop import restored as restored
from jaxdarts.runs.loop import saved_form as saved_form
from jaxdarts.runs.loop import total_steps as total_steps
from jaxdarts.runs.loop import train as train
from jaxdarts.runs.loop import train_unattended as train_unattended
from jaxdarts.runs.process import Stop as Stop
from jaxdarts.runs.process import jitted as jitted
from jaxdarts.runs.process import processor as processor
from jaxdarts.runs.process import set_up as set_up
from jaxdarts.runs.process import start as start
from jaxdarts.runs.process import use_cache as use_cache
from jaxdarts.runs.process import versions as versions
from jaxdarts.runs.seeds import mean_and_deviation as mean_and_deviation
from jaxdarts.runs.seeds import spread as spread
from jaxdarts.runs.task import Epoch as Epoch
from jaxdarts.runs.task import Means as Means
from jaxdarts.runs.task import Task as Task
from jaxdarts.runs.task import Training as Training
