import shop.units
from shop import make_store, units

store = make_store()


def run():
    with make_store() as opened:
        opened.total()
    shop.units.convert("1")
    units.convert("2")
    return store.total()
