"""An app whose train() takes more and more memory, 64 MiB at a time, without end."""

import time

import numpy as np

import tfos


class Hungry(tfos.TFOnSparkApp):
    def pre_train(self, spark):
        return spark.range(100)

    def train(self, ctx):
        hoard = []
        while True:
            hoard.append(np.ones(1 << 23))
            time.sleep(0.01)
