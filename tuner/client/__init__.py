"""The light client: studies on a server, for scripts and for the command line."""

from tuner.client.access import Access
from tuner.client.client import Client, connect
from tuner.client.models import Models
from tuner.client.study import Importance, Study, Trial
from tuner.client.trial import RunningTrial

__all__ = ["Access", "Client", "Importance", "Models", "RunningTrial", "Study", "Trial", "connect"]
