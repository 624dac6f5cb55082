"""A stop that is asked for is remembered until what is in hand is done and saved."""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a person's and a cluster's


class Interrupt:
    """``asked``: whether one of SIGNALS has come since ``begin``; ``end`` gives them back.

    As a context it begins and ends.
    """

    def __init__(self):
        self.asked, self.previous = False, {}

    def begin(self):
        self.previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def _remember(self, *_):
        self.asked = True

    def end(self):
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def __enter__(self):
        return self.begin()

    def __exit__(self, *_):
        self.end()
