"""Things by name."""

import os.path
import json as encoder
from .base import Base
from .units import Grams, LIMIT


def logged(function):
    return function


class Store(Base):
    """Keeps things.

    More about it.
    """

    unit = Grams(1)

    def __init__(self, first: "Grams" = None):
        super().__init__()
        self.first = first
        self.scale = Scale()

    @logged
    def total(self) -> Grams:
        self.check(LIMIT)
        return self.scale.read(self.first)

    @property
    def heavy(self):
        return self.total().double()


class Scale:
    def read(self, grams: Grams) -> int:
        print(os.path.join("a", "b"), encoder.dumps({}))
        return grams.double().amount


def make() -> Store:
    def inner():
        return Store()

    return inner()
