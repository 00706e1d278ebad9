LIMIT = 20


class Grams:
    def __init__(self, amount):
        self.amount = amount

    def double(self) -> "Grams":
        return Grams(self.amount * 2)


convert = lambda text: Grams(int(text))
