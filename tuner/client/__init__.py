"""The light client: studies on a server, for scripts and for the command line."""

from tuner.client.client import Client, connect, running_server
from tuner.client.study import Importance, Study, Trial
from tuner.client.trial import RunningTrial

__all__ = ["Client", "Importance", "RunningTrial", "Study", "Trial", "connect", "running_server"]
