"""The image classifier."""

from snnrl.agents.classifier.agent import Classifier

__all__ = ["Classifier"]
