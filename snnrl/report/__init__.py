"""The report of a run as one HTML page."""

from snnrl.report.data import Behaviour, Run, Sample, Stage, read_stage
from snnrl.report.page import render, render_several

__all__ = ["Behaviour", "Run", "Sample", "Stage", "read_stage", "render", "render_several"]
