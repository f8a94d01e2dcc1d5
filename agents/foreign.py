"""Agents that others trained with stable-baselines3's DQN, read without unpickling anything.

The weights come from ``policy.pth`` through torch's weights-only reader, the architecture from their shapes, and the
rest from the readable part of the JSON file ``data``; the pickled objects in it are never decoded.
"""

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snnrl.checkpoint import SafeZip, match_shapes, open_zip_safely
from snnrl.errors import UserError
from snnrl.files import MIB, Inert, first_line, pickle_imports, quoted, read_bytes, read_pickle_as_data

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "relu6": nn.ReLU6,
    "softplus": nn.Softplus,
    "mish": nn.Mish,
}
_SB3_MEMBER = re.compile(r"data|[a-z_]+(\.[a-z_]+)*\.pth|_stable_baselines3_version|system_info\.txt")
_TORCH_MEMBER = re.compile(r"[\w-]+/(data\.pkl|data/\d+|version|byteorder|\.[a-z_]+|\.data/serialization_id)")
_TENSOR_IMPORT = re.compile(
    r"collections\.OrderedDict|torch\._utils\._rebuild_tensor_v2|torch\.[A-Z][A-Za-z0-9]*Storage"
)
_MAX_TENSOR_OPCODES = 20_000  # enough for 600 tensors; hashing a tuple nested 10 times deeper overflows the stack
_VERSION = "_stable_baselines3_version"
_EXTRACTOR = re.compile(r"<class 'stable_baselines3\.common\.torch_layers\.(FlattenExtractor|NatureCNN)'>")
_CONVOLUTIONS = {"cnn.0": (32, 8, 4), "cnn.2": (64, 4, 2), "cnn.4": (64, 3, 1)}  # output channels, kernel, stride


@dataclass(frozen=True, eq=False)
class ForeignDQN:
    """A Q-network of stable-baselines3: what it takes in, its layers, and its weights under the names of SB3.

    ``normalize_images`` is true if the network divides its observations by 255, as SB3 does with uint8 images;
    ``observation_shape`` (C, H, W for images) is None if the file does not tell it.
    """

    features: Literal["flatten", "nature_cnn"]
    net_arch: tuple[int, ...]
    activation: str
    observation_shape: tuple[int, ...] | None
    normalize_images: bool
    n_actions: int
    weights: dict[str, torch.Tensor]
    sb3_version: str | None
    gamma: float | None


def read_sb3_dqn(path: str | Path, *, activation: str | None = None) -> ForeignDQN:
    """Read the Q-network of a zip that ``stable_baselines3.DQN.save`` wrote, in any version since 1.0.

    Args:
        activation: A key of ``ACTIVATIONS``, for files that do not tell it.

    Raises:
        UserError: the file is missing, damaged or hostile; it is not a DQN with one of SB3's own policies on a Box
            observation space; or its activation cannot be known.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise UserError(f"unknown activation {quoted(activation)}; choose one of {', '.join(ACTIVATIONS)}")
    with open_zip_safely(path, _SB3_MEMBER) as archive:
        where = archive.where
        data = archive.read_json("data", finite=False)
        weights = _q_network_weights(archive)
        version = archive.read(_VERSION, 100).decode("ascii", "replace") if _VERSION in archive.names else None
    if not isinstance(data, dict):
        raise _unsupported(where, "data is not a JSON object")
    kwargs = _policy_arguments(data, where)
    space = data.get("observation_space", {})
    space = space if isinstance(space, dict) else {}
    if ":type:" in space and ".Box'" not in str(space[":type:"]):
        raise _unsupported(where, f"observation space {quoted(space[':type:'])}, not a Box")
    shape = _observation_shape(space)
    features, net_arch, n_actions = _architecture(weights, shape, where)
    gamma = data.get("gamma")
    return ForeignDQN(
        features=features,
        net_arch=net_arch,
        activation=_activation(kwargs, activation, where),
        observation_shape=shape,
        normalize_images=_scales_pixels(kwargs, space, shape),
        n_actions=n_actions,
        weights=weights,
        sb3_version=version,
        gamma=float(gamma) if isinstance(gamma, int | float) and 0 <= gamma <= 1 else None,
    )


def _unsupported(where: str, problem: str) -> UserError:
    return UserError(f"cannot read {where}: {problem}; choose a DQN saved by stable-baselines3, with its own policies")


def _policy_arguments(data: dict[str, Any], where: str) -> dict[str, Any] | None:
    """Return the policy's readable arguments, or None; refuse classes whose function the weights do not tell."""
    policy = data.get("policy_class")
    module = policy.get("__module__") if isinstance(policy, dict) else None
    if module not in (None, "stable_baselines3.dqn.policies"):
        raise _unsupported(where, f"policy class of module {quoted(module)}")
    kwargs = data.get("policy_kwargs")
    if not isinstance(kwargs, dict):
        return None
    extractor = kwargs.get("features_extractor_class")
    if extractor is not None and not _EXTRACTOR.fullmatch(str(extractor)):
        raise _unsupported(where, f"features extractor {quoted(extractor)}")
    return kwargs


def _activation(kwargs: dict[str, Any] | None, chosen: str | None, where: str) -> str:
    stored = None if kwargs is None else str(kwargs.get("activation_fn", "<class 'torch.nn.modules.activation.ReLU'>"))
    for name, kind in ACTIVATIONS.items():
        if stored == f"<class 'torch.nn.modules.activation.{kind.__name__}'>":
            if chosen in (None, name):
                return name
            raise UserError(f"cannot read {where}: its activation is {name}, not {chosen}; leave --activation out")
    if stored is not None:
        raise _unsupported(where, f"its activation {quoted(stored)} is none of {', '.join(ACTIVATIONS)}")
    if chosen is None:
        names = "|".join(ACTIVATIONS)
        raise UserError(f"cannot read {where}: its activation is not stored; choose it with --activation {names}")
    return chosen


def _observation_shape(space: dict[str, Any]) -> tuple[int, ...] | None:
    shape = space.get("_shape", space.get("shape"))  # the key of gymnasium, and of gym
    if isinstance(shape, list) and all(type(size) is int and 0 < size < 2**31 for size in shape):
        return tuple(shape)
    return None


def _scales_pixels(kwargs: dict[str, Any] | None, space: dict[str, Any], shape: tuple[int, ...] | None) -> bool:
    """Return whether SB3 divides by 255: unless told otherwise, a uint8 box of three axes and bounds 0 and 255."""
    low, high = (set(re.findall(r"\d+", str(space.get(bound)))) for bound in ("low", "high"))
    is_image = shape is not None and len(shape) == 3 and space.get("dtype") == "uint8"
    return is_image and low <= {"0"} and high <= {"255"} and (kwargs or {}).get("normalize_images", True) is True


def _q_network_weights(archive: SafeZip) -> dict[str, torch.Tensor]:
    """Return the tensors below ``q_net.`` in ``policy.pth``, each a dense and finite float32 tensor."""
    where = f"policy.pth in {archive.where}"
    content = archive.read("policy.pth")
    if not content.startswith(b"PK\x03\x04"):  # older formats are a bare pickle or a tar of pickles
        raise _unsupported(where, "not a zip as PyTorch writes it since version 1.6")
    with open_zip_safely(io.BytesIO(content), _TORCH_MEMBER, where=where, most_members=4096) as inner:
        pickles = [inner.read(name, MIB) for name in inner.names if name.endswith("/data.pkl")]
    try:
        for name in sorted(name for pickle in pickles for name in pickle_imports(pickle, _MAX_TENSOR_OPCODES)):
            if not _TENSOR_IMPORT.fullmatch(name):  # before torch sees it, and stricter than torch
                raise ValueError(f"it imports {quoted(name)}, which is no tensor")
        state_dict = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        weights = {name[6:]: value for name, value in state_dict.items() if name.startswith("q_net.")}
    except Exception as error:  # whatever the bytes provoke
        raise _unsupported(where, first_line(error)) from error
    if not weights:
        raise _unsupported(where, f"no tensors of a Q-network, but {quoted(next(iter(state_dict), 'nothing'))}")
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise _unsupported(where, f"{quoted(name)} is not a dense float32 tensor")
        if not tensor.isfinite().all():
            raise _unsupported(where, f"tensor {quoted(name)} holds NaN or infinity")
    return weights


def _architecture(
    weights: dict[str, torch.Tensor], shape: tuple[int, ...] | None, where: str
) -> tuple[Literal["flatten", "nature_cnn"], tuple[int, ...], int]:
    """Return the features extractor, the hidden widths and the number of actions that the tensors' shapes tell."""
    extractor = [name for name in weights if name.startswith("features_extractor.")]
    known = tuple(f"features_extractor.{layer}." for layer in (*_CONVOLUTIONS, "linear.0"))
    if strange := [name for name in extractor if not name.startswith(known)]:
        raise _unsupported(where, f"unsupported extractor tensors {quoted(strange[0])}")
    depth = max(1, sum(re.fullmatch(r"q_net\.\d+\.weight", name) is not None for name in weights))
    sizes: dict[str, tuple[int, ...]] = {}
    try:
        inputs = weights["q_net.0.weight"].shape[1] if shape is None else math.prod(shape)
        if extractor:
            channels, height, width = shape or ()
            for name, (outputs, kernel, stride) in _CONVOLUTIONS.items():
                sizes[f"features_extractor.{name}"] = (outputs, channels, kernel, kernel)
                channels, height, width = outputs, (height - kernel) // stride + 1, (width - kernel) // stride + 1
            inputs = weights["features_extractor.linear.0.weight"].shape[0]
            sizes["features_extractor.linear.0"] = (inputs, channels * max(height, 0) * max(width, 0))
        widths = [inputs] + [weights[f"q_net.{2 * layer}.weight"].shape[0] for layer in range(depth)]
        sizes |= {f"q_net.{2 * layer}": (widths[layer + 1], widths[layer]) for layer in range(depth)}
        if any(0 in size for size in sizes.values()):
            raise ValueError("a layer is empty")
        expected = {f"{name}.weight": torch.empty(size, device="meta") for name, size in sizes.items()}
        expected |= {f"{name}.bias": torch.empty(size[0], device="meta") for name, size in sizes.items()}
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _unsupported(where, f"no chain of linear layers on a known observation: {first_line(error)}") from error
    match_shapes(expected, weights, f"policy.pth in {where}")
    return "nature_cnn" if extractor else "flatten", tuple(widths[1:-1]), widths[-1]


class ScalePixels(nn.Module):
    """Turn observations into float32 and divide them by a constant, 255 for images and 1 for everything else."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return ``observations / divisor``, of the same shape (B, ...)."""
        return observations.float() / self.divisor


def build_q_network(foreign: ForeignDQN) -> nn.Sequential:
    """Return the module (B, ...) -> (B, actions) that computes what SB3's ``q_net`` does; the first layer scales.

    The features are the flattened observation, or those of Mnih et al. 2015 (Nature 518), which always have ReLU.
    """
    layers: list[nn.Module] = [ScalePixels(255.0 if foreign.normalize_images else 1.0)]
    if foreign.features == "nature_cnn":
        for name, (_, _, stride) in _CONVOLUTIONS.items():
            layers += [_layer(foreign.weights, f"features_extractor.{name}", stride), nn.ReLU()]
        layers += [nn.Flatten(), _layer(foreign.weights, "features_extractor.linear.0"), nn.ReLU()]
    else:
        layers.append(nn.Flatten())
    for index in range(len(foreign.net_arch) + 1):
        layers += [_layer(foreign.weights, f"q_net.{2 * index}"), ACTIVATIONS[foreign.activation]()]
    return nn.Sequential(*layers[:-1])


def _layer(weights: dict[str, torch.Tensor], name: str, stride: int = 1) -> nn.Module:
    parameters = {part: weights[f"{name}.{part}"].clone() for part in ("weight", "bias")}
    outputs, inputs, *kernel = parameters["weight"].shape
    layer: nn.Module = nn.Linear(inputs, outputs, device="meta")  # no random start, no step of the caller's generator
    if kernel:
        layer = nn.Conv2d(inputs, outputs, (kernel[0], kernel[1]), stride, device="meta")
    layer.load_state_dict(parameters, assign=True)
    return layer


class ObservationStatistics(NamedTuple):
    """VecNormalize turns an observation o into clip((o - mean) / sqrt(variance + epsilon), -clip_obs, clip_obs)."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    epsilon: float
    clip_obs: float


def read_vecnormalize(path: str | Path) -> ObservationStatistics | None:
    """Read the observation statistics of a file that ``VecNormalize.save`` wrote, a pickle, without unpickling it.

    Returns None if it was only to normalise rewards.

    Raises:
        UserError: the file is missing, damaged or hostile, or holds no statistics of Box observations.
    """
    content = read_bytes(path, 64 * MIB)
    try:
        root = read_pickle_as_data(content)
        if root.name != "stable_baselines3.common.vec_env.vec_normalize.VecNormalize()":
            raise ValueError(f"it holds a {root.name[:80]}")
        state = root.state
        if state["norm_obs"] is False:
            return None
        if state["norm_obs"] is not True or isinstance(state["obs_rms"], dict):
            raise ValueError("it normalizes observations of a Dict space")
        mean, variance = _array(state["obs_rms"].state["mean"]), _array(state["obs_rms"].state["var"])
        epsilon, clip_obs = _number(state["epsilon"]), _number(state["clip_obs"])
        if mean.shape != variance.shape or not np.isfinite([mean, variance]).all() or (variance < 0).any():
            raise ValueError("mean and variance are not finite, or of two shapes")
        if not (0 <= epsilon < math.inf and clip_obs > 0):
            raise ValueError("epsilon or clip_obs is negative")
    except Exception as error:  # whatever the bytes provoke
        problem = f"cannot read {quoted(path)}: {first_line(error)}"
        raise UserError(f"{problem}; choose a file that VecNormalize saved for Box observations") from error
    return ObservationStatistics(mean, variance, epsilon, clip_obs)


def _array(node: Inert) -> NDArray[np.float64]:
    """Return the float array or scalar that a record of numpy's pickling describes, from its raw bytes."""
    order: Any = "C"
    match node.name.replace("numpy.core.", "numpy._core."):
        case "numpy._core.multiarray._reconstruct()":
            _, shape, dtype, is_fortran, raw = node.state
            order = "F" if is_fortran else "C"
        case "numpy._core.numeric._frombuffer()":  # since pickle protocol 5
            raw, dtype, shape, order = node.arguments
        case "numpy._core.multiarray.scalar()":
            (dtype, raw), shape = node.arguments, ()
        case name:
            raise ValueError(f"{name} is not an array")
    code, byte_order = dtype.arguments[0], dtype.state[1]
    if dtype.name != "numpy.dtype()" or code not in ("f4", "f8") or byte_order not in ("<", ">"):
        raise ValueError("an array is not of float32 or float64")
    values: NDArray[np.float64] = np.frombuffer(raw, byte_order + code).reshape(shape, order=order).astype(np.float64)
    return values


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else float(_array(value))
