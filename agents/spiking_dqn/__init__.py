"""The spiking DQN agent."""

from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.extractors import SlottedCNN, SlottedCombined, SlottedExtractor
from snnrl.agents.spiking_dqn.policy import (
    SpikingCnnPolicy,
    SpikingDQNPolicy,
    SpikingMlpPolicy,
    SpikingMultiInputPolicy,
    SpikingQNetwork,
)

CnnPolicy = SpikingCnnPolicy
MlpPolicy = SpikingMlpPolicy
MultiInputPolicy = SpikingMultiInputPolicy

__all__ = [
    "CnnPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
    "SlottedCNN",
    "SlottedCombined",
    "SlottedExtractor",
    "SpikingCnnPolicy",
    "SpikingDQN",
    "SpikingDQNPolicy",
    "SpikingMlpPolicy",
    "SpikingMultiInputPolicy",
    "SpikingQNetwork",
]
