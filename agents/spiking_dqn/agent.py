"""SpikingDQN: stable-baselines3's DQN whose Q-network spikes, with double Q-learning and files without pickle."""

import io
import pathlib
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, TensorDict
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import CnnPolicy, DQNPolicy, MultiInputPolicy
from torch import Tensor
from torch.nn import functional

from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.spiking_dqn import storage
from snnrl.agents.spiking_dqn.policy import (
    SpikingCnnPolicy,
    SpikingDQNPolicy,
    SpikingMlpPolicy,
    SpikingMultiInputPolicy,
    SpikingQNetwork,
)
from snnrl.envs import AtariGame
from snnrl.errors import UserError, did_you_mean
from snnrl.files import quoted
from snnrl.networks import calibrating, neurons_of, penalized
from snnrl.precision import mixed_precision

PRECISIONS = ("fp32", "bf16")

SCRATCH_PERCENTILE = 90.0
"""Thresholds of a network from scratch: this percentile of the first batch's pre-activations, as in conversion."""

_SPIKING: dict[Any, type[SpikingDQNPolicy]] = {
    DQNPolicy: SpikingMlpPolicy,
    CnnPolicy: SpikingCnnPolicy,
    MultiInputPolicy: SpikingMultiInputPolicy,
}
"""What stands in for SB3's own policy classes, so that a script that passes one needs no change."""


def _identity(env: VecEnv | None) -> tuple[str | None, dict[str, Any]]:
    """Return the name of an environment, and what it is made with if that is known."""
    base = None if env is None else env.unwrapped
    # only of environments in this process: a spec from another one may not survive the way
    envs = getattr(base, "envs", ())
    for game in (base, *(one.unwrapped for one in envs)):
        if isinstance(game, AtariVecEnv | AtariGame):
            return game.game, {"protocol": game.protocol.model_dump()}
    return next((one.spec.id for one in envs if getattr(one, "spec", None)), None), {}


class SpikingDQN(DQN):
    """Deep Q-learning with a spiking Q-network; everything that SB3 documents of ``DQN`` holds.

    Added: ``T`` timesteps per decision (default 1; None trains the ordinary network), ``double_q`` (van Hasselt et al.
    2016, arXiv 1509.06461; default on), ``precision`` (``"bf16"`` multiplies in bfloat16 while it learns; weights,
    Q-values and all that is played stay float32), ``spike_penalty`` (weight in the loss of the spikes per neuron and
    decision, the mean over layers; default 0), ``hoyer_penalty`` (of the Hoyer measures of a batch of 128; for
    ``policy_kwargs=dict(neuron="hoyer")``; default 0), ``reward_scale`` (what rewards are multiplied by in learning:
    few spikes cannot add up to large Q-values; default 1), ``dueling`` through ``policy_kwargs``, and exploration drawn
    for each environment by itself (SB3 draws one coin for the whole batch).
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SpikingMlpPolicy,
        "CnnPolicy": SpikingCnnPolicy,
        "MultiInputPolicy": SpikingMultiInputPolicy,
        "SpikingMlpPolicy": SpikingMlpPolicy,
        "SpikingCnnPolicy": SpikingCnnPolicy,
        "SpikingMultiInputPolicy": SpikingMultiInputPolicy,
    }
    kind: ClassVar[str] = "agent"
    """What its files say that they hold."""
    policy: SpikingDQNPolicy
    q_net: SpikingQNetwork
    q_net_target: SpikingQNetwork

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str | None,
        *args: Any,
        T: int | None = 1,
        double_q: bool = True,
        precision: str = "fp32",
        spike_penalty: float = 0.0,
        hoyer_penalty: float = 0.0,
        reward_scale: float = 1.0,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        policy = _SPIKING.get(policy, policy)
        if isinstance(policy, type) and not issubclass(policy, SpikingDQNPolicy):
            raise UserError(f"the policy {policy.__name__} does not spike: derive it from SpikingDQNPolicy")
        if precision not in PRECISIONS:
            raise UserError(f"unknown precision {quoted(precision)}{did_you_mean(precision, PRECISIONS)}")
        for name, price in (("spike_penalty", spike_penalty), ("hoyer_penalty", hoyer_penalty)):
            if price < 0 or (price and T is None):
                raise UserError(f"{name}={price}: give 0 or more, and a network that spikes (T)")
        if reward_scale <= 0:
            raise UserError(f"reward_scale={reward_scale}: give more than 0")
        self.double_q = double_q
        self.precision = precision
        self.spike_penalty = spike_penalty
        self.hoyer_penalty = hoyer_penalty
        self.reward_scale = reward_scale
        # a network converted or loaded has its thresholds; one from scratch gets them from its first batch
        self.calibrated = False
        kwargs["policy_kwargs"] = {"T": T} | (policy_kwargs or {})
        super().__init__(policy, env, *args, **kwargs)  # type: ignore[arg-type]  # SB3 passes None for prediction only
        self.env_id, self.env_kwargs = _identity(self.env)

    @property
    def T(self) -> int | None:
        """Timesteps per decision; None for the ordinary network."""
        return self.policy.T

    def reduce_to(self, steps: int) -> None:
        """Decide in ``steps`` timesteps from now on, with the same weights, thresholds and leaks.

        Raises:
            UserError: the network does not spike, or ``steps`` is out of range.
        """
        self.policy.reduce_to(steps)
        self.policy_kwargs = self.policy_kwargs | {"T": self.T}

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take ``gradient_steps`` steps on s r + discount * Q_target(s', argmax_a Q(s', a)), Huber loss, and on spikes.

        s is ``reward_scale``. Without ``double_q`` the target network also chooses the action, as in SB3.
        Source: arXiv 1509.06461, Eq. 4; the rest is SB3's DQN.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        self.policy.set_training_mode(True)
        if not self.calibrated:
            self._calibrate(batch_size)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            assert self.replay_buffer is not None
            loss = self.loss(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            losses.append(loss.item())
        if not np.isfinite(losses).all():
            raise FloatingPointError(f"the loss is not finite at step {self.num_timesteps}: lower the learning rate")
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", float(np.mean(losses)))

    def loss(self, batch: Any) -> Tensor:
        """Return the loss, 0-dim, of a batch of the replay buffer."""
        discounts = self.gamma if batch.discounts is None else batch.discounts
        with self.mixed_precision():
            # first with gradients: autocast keeps the cast weights of the first forward for the others
            with penalized(self.q_net, self) as penalty:
                value = self.q_net(batch.observations).gather(1, batch.actions.long())
            with torch.no_grad():
                next_values = self.q_net_target(batch.next_observations)
                chooser = self.q_net(batch.next_observations) if self.double_q else next_values
        next_value = next_values.gather(1, chooser.argmax(dim=1, keepdim=True))
        target = self.reward_scale * batch.rewards + (1 - batch.dones) * discounts * next_value
        return penalty.add_to(functional.smooth_l1_loss(value, target))

    def mixed_precision(self) -> torch.autocast:
        """Return the context in which the networks learn; see :func:`snnrl.precision.mixed_precision`."""
        return mixed_precision(self.device, self.precision)

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: Any = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Any]:
        """Return actions ``(B,)`` and the state; unless ``deterministic``, each row explores with its own coin.

        With ``policy_kwargs=dict(carry=True)`` the state holds the potentials after this decision.
        """
        actions, state = self.policy.predict(observation, state, episode_start, deterministic=True)
        if not deterministic:
            rows = np.atleast_1d(actions).copy()
            explores = np.random.random(len(rows)) < self.exploration_rate  # noqa: NPY002 - as SB3, which seeds it
            rows[explores] = [self.action_space.sample() for _ in range(explores.sum())]
            actions = rows.reshape(np.shape(actions))
        return actions, state

    @torch.no_grad()
    def _calibrate(self, batch_size: int) -> None:
        """Give a network trained from scratch thresholds that let its layers fire, in both networks.

        Thresholds that are not the initial ones were put in by the user (``set_parameters``) and stay.
        """
        self.calibrated = True
        neurons = neurons_of(self.q_net).values()
        if self.T is None or any(neuron.spike_value != type(neuron)(1).spike_value for neuron in neurons):
            return
        observations = self._observations(max(batch_size, 256))
        with calibrating(self.q_net, SCRATCH_PERCENTILE):
            self.q_net(observations)
        self.q_net_target.load_state_dict(self.q_net.state_dict())

    def _observations(self, batch_size: int) -> Any:
        """Return a batch of observations ``(B, ...)`` from the replay buffer."""
        assert self.replay_buffer is not None
        return self.replay_buffer.sample(batch_size, env=self._vec_normalize_env).observations

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "SpikingDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> "SpikingDQN":
        """Train for ``total_timesteps`` environment steps (SB3's loop and callbacks)."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write the agent as a zip of safetensors and JSON; ``.zip`` is added to a path without a suffix.

        Args:
            exclude: Settings to leave out, which are then the defaults of whoever loads the file.
            include: Settings to keep although they are in ``exclude``.

        Raises:
            UserError: ``include`` names something else than a setting, or the file cannot be written.
        """
        known = (*storage.SETTINGS, *storage.PROGRESS)
        if unknown := sorted(set(include or ()) - set(known)):
            raise UserError(
                f"include={unknown[0]!r}: a file holds the network, the optimiser and plain settings, nothing else; "
                "save_replay_buffer writes the replay buffer"
            )
        storage.save_agent(self, path, set(exclude or ()) - set(include or ()))

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> "SpikingDQN":
        """Read an agent written by :meth:`save`; nothing is unpickled.

        Args:
            env: None if the agent is only to predict.
            custom_objects: What no file can hold, by name: schedules, and classes from outside snnrl, SB3 and torch.
            kwargs: Settings that replace the file's.

        Raises:
            UserError: the file is missing, damaged or foreign, or needs ``custom_objects``.
        """
        return storage.load_agent(cls, path, env, device, custom_objects or {}, print_system_info, force_reset, kwargs)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Write the replay buffer as a zip of safetensors and JSON."""
        storage.save_replay(self, path)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """Read a replay buffer written by :meth:`save_replay_buffer`; nothing is unpickled.

        Args:
            truncate_last_traj: Let a ``HerReplayBuffer``'s unfinished episode end where the file ends.

        Raises:
            UserError: the file is damaged, or belongs to another kind of agent.
        """
        storage.load_replay(self, path, truncate_last_traj)

    def set_parameters(
        self,
        load_path_or_dict: str | pathlib.Path | TensorDict | dict[str, dict[str, Any]],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Put in the weights and optimiser of a saved agent, or of ``get_parameters()``; nothing is unpickled.

        Raises:
            UserError: the file is missing, damaged or of another network.
            ValueError: the dict lacks a part and ``exact_match`` asks for all.
        """
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = storage.read_parameters(self, load_path_or_dict)
        super().set_parameters(load_path_or_dict, exact_match, device)  # type: ignore[arg-type]

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise UserError(f"unknown policy {policy_name!r}{did_you_mean(policy_name, self.policy_aliases)}")
        return self.policy_aliases[policy_name]
