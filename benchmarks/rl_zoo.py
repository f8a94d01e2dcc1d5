"""RL Zoo with the spiking agent: its own command line, one line of registration.

``python benchmarks/rl_zoo.py --algo spiking_dqn --env CartPole-v1 -conf benchmarks/rl_zoo.yml``
"""

import rl_zoo3
from rl_zoo3.train import train

from snnrl.agents.spiking_dqn import SpikingDQN

rl_zoo3.ALGOS["spiking_dqn"] = SpikingDQN

if __name__ == "__main__":
    train()
