"""Sudden changes of shares, told from noise, drift, seasons and traffic: no I/O, no clock."""

from streams.detection.bins import OTHER, Bin
from streams.detection.calibration import calibrate
from streams.detection.detector import MarketDetector
from streams.detection.parameters import BIN_MS, Parameters
from streams.detection.relations import Relations
from streams.detection.transitions import Kind, State, Transition, alert_id

__all__ = [
    "BIN_MS",
    "OTHER",
    "Bin",
    "Kind",
    "MarketDetector",
    "Parameters",
    "Relations",
    "State",
    "Transition",
    "alert_id",
    "calibrate",
]
