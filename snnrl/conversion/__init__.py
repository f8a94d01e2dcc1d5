"""From an ordinary network to a spiking one."""

from snnrl.conversion.convert import PERCENTILE, Conversion, convert
from snnrl.conversion.report import ConversionReport, LayerReport, agreement

__all__ = ["PERCENTILE", "Conversion", "ConversionReport", "LayerReport", "agreement", "convert"]
