"""SEDD's moving average is Duo's."""

from duo_ext.standalone.models.ema import ExponentialMovingAverage

__all__ = ["ExponentialMovingAverage"]
