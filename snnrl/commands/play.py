"""``snnrl play AGENT``: a video of greedy episodes."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import gymnasium
import numpy as np
import tyro

from snnrl.agents.evaluate import episode_seeds
from snnrl.agents.library import Opened, open_agent, shipped_agents
from snnrl.agents.metrics import watching
from snnrl.agents.settings import Positive, Seed, Settings, Steps
from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.arguments import parse, positional
from snnrl.commands import overlay
from snnrl.display import Display, print_json
from snnrl.energy import CostTable, counting_operations, ordinary_energy, read_costs, spiking_energy
from snnrl.envs import action_names, make
from snnrl.errors import UserError


class PlayOptions(Settings):
    """Write a video of greedy episodes."""

    out: Path = Path("play.mp4")
    """The video; an existing file is not overwritten."""
    episodes: Positive = 1
    """Episodes, one after the other."""
    seed: Seed = 0
    """Of the starts."""
    T: Steps | None = None
    """Timesteps; default: the agent's own. An ordinary agent is converted, untrained."""
    env: str | None = None
    """Gymnasium id or Atari game; default: the environment that the agent was trained in."""
    protocol: Literal["v4", "v5"] | None = None
    """Of an Atari game; default: the one that the agent was trained under."""
    overlay: Literal["spikes"] | None = None
    """Beside the game: spikes shows those of every layer, Q-values, and the energy of each decision."""
    most_steps: Positive = 10_000
    """End of an episode, for environments without a limit of their own."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print file, frames and rewards as one JSON object on the last line of stdout."""


def play(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(PlayOptions, arguments, "play", "AGENT", shipped_agents())
    options = parse(PlayOptions, rest, f"play {name}")
    if options.out.exists():
        raise UserError(f"{options.out} exists: give another --out")
    if not options.out.parent.is_dir():
        raise UserError(f"there is no folder {options.out.parent} for --out")
    if options.out.suffix != ".mp4":
        raise UserError(f"--out {options.out} must end in .mp4")
    opened = open_agent(name, options.env, protocol=options.protocol, T=options.T)
    if options.overlay and opened.agent.T is None:
        raise UserError(f"{name} is an ordinary network, which has no spikes to overlay: give --T to convert it")
    rewards: list[float] = []
    with Display(options.as_json) as display, _Video(options.out) as video:
        for seed in episode_seeds(options.seed, "report", options.episodes):
            rewards.append(_film(opened, seed, options, video))
            display.say(f"episode {len(rewards)}: reward {rewards[-1]:.1f}")
    display.say(f"wrote {options.out}, {video.frames} frames")
    if options.as_json:
        print_json({"out": str(options.out), "frames": video.frames, "rewards": rewards})
    return 0


def _film(opened: Opened, seed: int, options: PlayOptions, video: "_Video") -> float:
    """Play an episode into the video and return its reward."""
    total = 0.0
    with contextlib.closing(make(opened.env_id, render_mode="rgb_array", **opened.env_kwargs)) as env:
        observation, _ = env.reset(seed=seed)
        actions, costs = action_names(env), read_costs("paper")
        for _ in range(options.most_steps):
            try:
                frame = env.render()
            except gymnasium.error.DependencyNotInstalled as error:
                raise UserError(f"drawing {opened.env_id} needs a package: {error}") from error
            if not isinstance(frame, np.ndarray):
                raise UserError("this environment draws no frames (render_mode rgb_array)")
            if options.overlay:
                action, decision = _decide(opened.agent, observation, costs)
                frame = overlay.draw(frame, decision, actions, total)
            else:
                action, _ = opened.agent.predict(observation, deterministic=True)
            video.write(frame, float(env.metadata.get("render_fps", 30)))
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
    return total


def _decide(agent: SpikingDQN, observation: Any, costs: CostTable) -> tuple[Any, overlay.Decision]:
    """Return the greedy action, and what the network did for it."""
    with watching(agent.q_net) as seen, counting_operations(agent.q_net, 1) as operations:
        action, _ = agent.predict(observation, deterministic=True)
    return action, overlay.Decision(
        agent.T or 1,
        {name: count.spikes.cpu().numpy() for name, count in seen.counts.items()},
        seen.q_values[0].numpy(),
        spiking_energy(operations.layers, costs) / 1e3,
        ordinary_energy(operations.layers, costs) / 1e3,
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep OpenCV from warning of each frame that it could not write."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class _Video:
    """An MP4 file in VP9, which browsers play, that appears under its name once it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.stem}.partial.mp4")
        self.writer: cv2.VideoWriter | None = None
        self.frames = 0

    def __enter__(self) -> "_Video":
        return self

    def write(self, frame: overlay.Image, fps: float) -> None:
        """Append an RGB frame."""
        if self.writer is None:
            size = frame.shape[1], frame.shape[0]
            self.writer = cv2.VideoWriter(str(self.partial), cv2.VideoWriter.fourcc(*"vp09"), fps, size)
            if not self.writer.isOpened():
                raise UserError(f"cannot write {self.path}: is its folder there and writable?")
        self.frames += 1
        with _silent():
            self.writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind: object, *_: object) -> None:
        if self.writer is not None:
            self.writer.release()
            complete = kind is None and self._frames_written() == self.frames
            if complete:
                self.partial.replace(self.path)
            else:
                self.partial.unlink(missing_ok=True)
            if kind is None and not complete:
                raise UserError(f"cannot write {self.path}: the video is incomplete; is the disk full?")

    def _frames_written(self) -> int:
        """Return how many frames the file holds; OpenCV's writer tells nothing."""
        with _silent():
            return int(cv2.VideoCapture(str(self.partial)).get(cv2.CAP_PROP_FRAME_COUNT))
