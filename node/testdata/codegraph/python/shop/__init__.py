"""A shop."""

from .store import Store, make as make_store
from . import units
