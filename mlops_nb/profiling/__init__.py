"""Profiles: latency, throughput, CPU and memory over hardware, cores and batch sizes, and the advice they give."""

from .advice import Advice, Objective, Point, Step, advise
from .measure import BATCHES, profile

__all__ = ["BATCHES", "Advice", "Objective", "Point", "Step", "advise", "profile"]
