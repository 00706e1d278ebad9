class Base:
    def __init__(self):
        self.ready = True

    def check(self, limit):
        return limit
