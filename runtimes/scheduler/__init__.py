"""Who runs which hop when.

``fifo`` cuts blocks of any size into hops. ``shared`` lets several streams take turns on one
engine. ``framed`` feeds a program that takes several frames a step.
"""

from .fifo import HopFifo
from .shared import SharedEngine

__all__ = ["HopFifo", "SharedEngine"]
