"""The recipe of a spiking DQN experiment: a line per field, with its unit and, where it has one, its source."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator
from pydantic.fields import FieldInfo

from snnrl.agents.settings import Percentile, Positive, ScratchKind, Settings, Share, StagedRecipe, Windows, options_of
from snnrl.envs import PROTOCOLS, AtariProtocol, games, read_protocol
from snnrl.errors import UserError


def _or_none(field: FieldInfo) -> tuple[Any, Any]:
    """Return a field's kind and default for a group in which each field may be left as it is."""
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return kind | None, Field(None, description=field.description)


if TYPE_CHECKING:
    ProtocolChanges = AtariProtocol
else:
    ProtocolChanges = create_model(
        "ProtocolChanges",
        __base__=Settings,
        __doc__="What is to differ from the protocol; None: nothing.",
        **{name: _or_none(field) for name, field in AtariProtocol.model_fields.items() if name != "name"},
    )


class Network(Settings):
    """The Q-network."""

    kind: Literal["mlp", "small", "nature", "vgg6", "vgg16", "resnet20", ScratchKind] = "mlp"
    """Perceptron, or a convolutional network: 16/32/32 of 5x5 (small), 32/64/64 of the Nature paper (nature), those for
    images of arXiv 2110.05929 (vgg6, vgg16, resnet20), or those of arXiv 2212.10170 (hoyer-) and 2401.10843 (window-),
    from scratch alone."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Share of the channels, of a network for images."""
    features: Annotated[int, Field(ge=0)] = 128
    """Width of the fully connected layer after the convolutions; 0 leaves it out."""
    net_arch: tuple[Positive, ...] = ()
    """Widths of the hidden layers of the perceptron (after the convolutions, if there are any)."""
    batch_norm: bool = False
    """Batch-norm after every convolution of the ordinary network; conversion folds it."""
    dueling: bool = False
    """Separate streams for value and advantage (arXiv 1511.06581)."""
    background: Share | Literal["measured"] = 0.0
    """Subtracted from pixels between 0 and 1 before the first convolution; measured: their median in random play."""
    bias: bool = True
    """Bias terms in every layer; the RL networks of arXiv 2110.05929 have none."""
    window: Windows = Windows()

    @model_validator(mode="after")
    def _foldable(self) -> "Network":
        if self.batch_norm and not self.bias:
            raise UserError("network.batch_norm becomes a bias when it is folded: turn it off, or network.bias on")
        if self.width != 1 and self.kind in ("mlp", "small", "nature"):
            raise UserError(f"network.width is of networks for images, not of {self.kind}: leave it at 1")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Options of this kind of network that are not the default of all."""
        return ({} if self.width == 1 else {"width": self.width}) | options_of(self.kind, self.window)


class DQN(Settings):
    """Temporal-difference learning, as in SB3's DQN."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    final_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """At the last step, the learning rate falling linearly; None: it stays the same."""
    optimizer: Literal["Adam", "AdamW", "RMSprop", "SGD"] = "Adam"
    """Its name in torch.optim."""
    buffer_size: Positive = 50_000
    """Transitions."""
    learning_starts: Annotated[int, Field(ge=0)] = 1_000
    """Random environment steps before the first update."""
    batch_size: Positive = 64
    gamma: Share = 0.99
    """Discount per step."""
    reward_scale: Annotated[float, Field(gt=0)] = 1.0
    """What rewards are multiplied by in learning: few spikes cannot add up to large Q-values."""
    n_steps: Positive = 3
    """Rewards summed before bootstrapping."""
    train_freq: Positive = 1
    """Steps of every environment between updates."""
    gradient_steps: Positive = 2
    """Updates at a time."""
    target_update_interval: Positive = 500
    """Environment steps between copies to the target network."""
    exploration_fraction: Share = 0.3
    """Share of the steps over which epsilon falls."""
    exploration_initial_eps: Share = 1.0
    exploration_final_eps: Share = 0.05
    max_grad_norm: Annotated[float, Field(gt=0)] = 10.0
    double_q: bool = True
    """arXiv 1509.06461."""


class Training(Settings):
    """How long a network is trained by temporal differences, and when that is enough."""

    steps: Positive = 100_000
    """Environment steps, all environments together."""
    episodes: Positive | None = None
    """Stop after this many episodes."""
    target_reward: float | None = None
    """Stop once the gate's episodes reach this mean reward."""
    eval_every: Positive = 5_000
    """Environment steps between plays of the gate's episodes; the best network of them is kept."""
    checkpoint_every: Positive = 5_000
    """Environment steps between checkpoints."""
    milestone_every: Positive | None = None
    """Environment steps between agents that stay in the run folder, as STAGE-STEPS.zip; None: none stay."""


class Conversion(Settings):
    """From the ordinary network to the first spiking one."""

    percentile: Percentile = 90.0
    """Of the pre-activations, for the thresholds (arXiv 2110.05929, Sec. 3)."""
    others: tuple[Percentile, ...] = (99.5,)
    """Distillation tries these too and goes on from the start that plays best."""


class Reduction(Settings):
    """What a stage at fewer timesteps trains on."""

    loss: Literal["distill", "td"] = "distill"
    """Imitate the teacher's Q-values, or go on with temporal differences (arXiv 2110.05929)."""
    teacher: Literal["ann", "previous"] = "ann"
    """Whom to imitate: the ordinary network, or the stage before."""
    rounds: Positive = 3
    """Tries per stage. Each adds the student's own play, labelled by the teacher, and trains again."""
    last_rounds: Positive | None = None
    """Tries in the last stage, which is what the run is for; None: twice as many as in the others."""
    view: Literal["grey", "binary", "events"] = "grey"
    """What spiking networks see of frames: pixels as the ordinary one does, or planes of 0 and 1 (snnrl.networks.View):
    where they stand out from the background, or the newest one so and where it grew brighter or darker before."""
    batches: Positive = 1_000
    """Batches per round."""
    batch_size: Positive = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 0
    """Batches at the start of a round in which the learning rate rises from zero."""
    frames: Positive = 20_000
    """Observations of the teacher's play."""
    own_frames: Positive = 10_000
    """Observations of the student's own play, added in each later round."""
    epsilon: Share = 0.1
    """Share of random actions while observations are gathered, and in training with loss td."""
    q_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the loss on Q beside that on the advantage."""
    linear_range: Annotated[float, Field(gt=0)] | None = 0.1
    """Larger advantages, in standard deviations of the teacher's, count by their logarithm; None: none do."""
    spike_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the loss of the spikes per neuron and decision, the mean over layers."""
    hoyer_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the Hoyer measures of a batch of 128, summed over layers of hoyer neurons (arXiv 2212.10170: 1e-8)."""
    td: Training = Training(steps=20_000)
    """Length of a stage with loss td."""
    train_freq: Positive | None = None
    """Steps of every environment between updates with loss td; None: as for the ordinary network."""
    checkpoint_every: Positive = 250
    """Batches between checkpoints."""

    @property
    def most_rounds(self) -> int:
        """Tries in the last stage."""
        return self.last_rounds or 2 * self.rounds


class Gate(Settings):
    """When a stage is good enough to go on from."""

    tolerance: Share = 0.02
    """Share of the teacher's reward that a stage may lose."""
    episodes: Positive = 20
    """Episodes, on seeds of their own."""
    epsilon: Share = 0.0
    """Share of random actions: greedy play of some games repeats the same few episodes."""


class Recipe(StagedRecipe):
    """One experiment with a DQN agent, from the ordinary network to the spiking one at ``reduce_to`` timesteps."""

    env: str
    """Gymnasium id, or an Atari game such as pong."""
    protocol: Literal["v4", "v5"] = "v4"
    """Of an Atari game: v4 (no sticky actions, as NoFrameskip-v4) or v5 (sticky actions, Machado et al. 2018)."""
    atari: ProtocolChanges = ProtocolChanges()
    n_envs: Positive = 8
    """Parallel environments."""
    report_episodes: Positive = 20
    """Greedy episodes of the reported reward, on seeds that neither training nor gate has seen."""
    most_steps: Positive | None = None
    """End of a greedy episode, for environments without a limit of their own."""
    network: Network = Network()
    dqn: DQN = DQN()
    ann: Training = Training()
    """The ordinary network's training (the first stage's, from scratch)."""
    conversion: Conversion = Conversion()
    reduction: Reduction = Reduction()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.env not in games() and (self.protocol, self.atari) != ("v4", ProtocolChanges()):
            raise UserError(f"protocol and atari belong to an Atari game, env is {self.env!r}")
        self.check_kinds(self.network.kind, self.network.window, self.reduction.hoyer_penalty)
        return self

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """What the environment is made with beside its name: for an Atari game, the protocol."""
        if self.env not in games():
            return {}
        changes = self.atari.model_dump(exclude_none=True, exclude={"name"})
        return {"protocol": PROTOCOLS[self.protocol].changed(**changes).model_dump()}

    @property
    def gate_play(self) -> dict[str, Any]:
        """How the gate's episodes are played."""
        return {"env_kwargs": self.env_kwargs, "most_steps": self.most_steps, "epsilon": self.gate.epsilon}


def env_settings(env: str, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a :class:`Recipe` by which it makes ``env`` with these ``env_kwargs``."""
    if env not in games():
        return {"env": env}
    protocol = read_protocol(env_kwargs["protocol"])
    return {"env": env, "protocol": protocol.name, "atari": protocol.changes}
