"""A DQN agent with memory."""

from snnrl.agents.recurrent_dqn.agent import RecurrentDQN
from snnrl.agents.recurrent_dqn.policy import RecurrentPolicy, RecurrentQNetwork
from snnrl.agents.recurrent_dqn.sequences import SequenceReplayBuffer, Sequences

__all__ = ["RecurrentDQN", "RecurrentPolicy", "RecurrentQNetwork", "SequenceReplayBuffer", "Sequences"]
