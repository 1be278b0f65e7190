"""Defines two apps."""

import tfos


class First(tfos.TFOnSparkApp):
    pass


class Second(tfos.TFOnSparkApp):
    pass
