"""Archives of tensors and JSON that can be read from a stranger: nothing is unpickled, extracted or executed.

An archive is an uncompressed zip with ``metadata.json`` and any number of ``NAME.safetensors``.
"""

import hashlib
import io
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch

from snnrl.errors import UserError
from snnrl.files import MAX_JSON_BYTES, check_regular_file, first_line, parse_json, quoted, to_json, write_atomically

FORMAT = "snnrl"
VERSION = 1
MAX_MEMBERS = 16
MAX_BYTES = 4 * 1024**3
MAX_COMPRESSION_RATIO = 20
MAX_HEADER_BYTES = 2**20
"""Of the names and shapes in one safetensors member: some ten thousand tensors."""
_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
_DTYPES |= {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8}
_MEMBER_NAME = re.compile(r"[a-z_]+\.safetensors|metadata\.json")


class Archive(NamedTuple):
    """What an archive holds: the metadata, and for every NAME the tensors of ``NAME.safetensors``."""

    metadata: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]


class SafeZip:
    """A zip whose list of members has been checked; members are read into memory one at a time, never extracted."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self.where = where
        self.names = archive.namelist()
        self._archive = archive
        self._members = {member.filename: member for member in archive.infolist()}

    def read(self, name: str, most: int = MAX_BYTES) -> bytes:
        """Return a member's bytes; UserError if it is absent, over ``most`` bytes, truncated or fails its checksum."""
        if name not in self._members:
            raise _refusal(self.where, f"it has no member {quoted(name)}")
        member = self._members[name]
        if member.file_size > most:
            raise _refusal(self.where, f"member {quoted(name)} is larger than {most} bytes")
        try:
            with self._archive.open(member) as file:
                data = file.read(member.file_size)  # bounded: a lying header cannot make zlib expand past it
        except Exception as error:  # zipfile and zlib raise many kinds, and the bytes may be hostile
            raise _refusal(self.where, f"member {quoted(name)}: {first_line(error)}") from error
        if len(data) != member.file_size:
            raise _refusal(self.where, f"member {quoted(name)} is truncated")
        return data

    def read_json(self, name: str, *, finite: bool = True) -> Any:
        """Return the value of a JSON member under the rules of ``snnrl.files.parse_json``."""
        return parse_json(self.read(name, MAX_JSON_BYTES), f"{name} in {self.where}", finite=finite)


@contextmanager
def open_zip_safely(
    source: str | Path | BinaryIO,
    allowed: re.Pattern[str],
    *,
    where: str | None = None,
    most_members: int = MAX_MEMBERS,
    methods: frozenset[int] = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}),
) -> Iterator[SafeZip]:
    """Open an untrusted zip whose every member's name matches ``allowed`` in full, as a context manager.

    Refused are repeated, encrypted and compressed-beyond-20-times members, links, folders, more than
    ``most_members`` members, and more than 4 GiB in one member or in all.

    Args:
        where: What to call the source in errors; its path by default.
        methods: Of compression, that members may have.

    Raises:
        UserError: the source is missing, no zip, or breaks one of these rules.
    """
    if isinstance(source, str | Path):
        where = where or quoted(source)
        check_regular_file(source)
    where = where or "the given stream"
    try:
        archive = zipfile.ZipFile(source)
    except Exception as error:  # as above
        raise _refusal(where, first_line(error)) from error
    with archive:
        _check_members(archive.infolist(), allowed, where, most_members, methods)
        yield SafeZip(archive, where)


def _refusal(where: str, problem: str) -> UserError:
    return UserError(f"cannot read {where}: {problem}; the file is damaged or of another kind: save or fetch it again")


def _check_members(
    members: list[zipfile.ZipInfo], allowed: re.Pattern[str], where: str, most: int, methods: frozenset[int]
) -> None:
    if len(members) > most:
        raise _refusal(where, f"{len(members)} members, more than {most}")
    seen: set[str] = set()
    for member in members:
        if problem := _member_problem(member, allowed, methods):
            raise _refusal(where, f"member {quoted(member.orig_filename)} {problem}")
        if member.filename in seen:
            raise _refusal(where, f"member {quoted(member.filename)} appears twice")
        seen.add(member.filename)
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise _refusal(where, f"more than {MAX_BYTES} bytes in all")


def _member_problem(member: zipfile.ZipInfo, allowed: re.Pattern[str], methods: frozenset[int]) -> str | None:
    if not allowed.fullmatch(member.orig_filename) or member.orig_filename != member.filename:
        return "does not belong there"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is not a regular file"
    if member.flag_bits & 0x2041:  # encrypted, strongly encrypted, or with a masked header
        return "is encrypted"
    if member.compress_type not in methods:
        known = member.compress_type == zipfile.ZIP_DEFLATED
        return "is compressed, which agents never are" if known else "is compressed by an unknown method"
    if member.file_size > MAX_BYTES:
        return f"is larger than {MAX_BYTES} bytes"
    if member.file_size > MAX_COMPRESSION_RATIO * max(member.compress_size, 1):
        return f"is compressed more than {MAX_COMPRESSION_RATIO} times"
    return None


def write_archive(
    destination: str | Path | BinaryIO, metadata: dict[str, Any], tensors: Mapping[str, Mapping[str, torch.Tensor]]
) -> None:
    """Write metadata and named groups of tensors; equal content gives equal bytes, and a path is replaced atomically.

    Args:
        metadata: A JSON object without the keys ``format`` and ``version``, which the archive itself sets.
        tensors: For every NAME of lower-case letters and ``_`` the tensors of ``NAME.safetensors``.

    Raises:
        UserError: a name, type or value that ``read_archive`` would refuse, or a file that cannot be written.
    """
    where = quoted(destination) if isinstance(destination, str | Path) else "the archive"
    if reserved := {"format", "version"} & metadata.keys():
        raise UserError(f"cannot write {where}: metadata key {min(reserved)!r} is reserved; rename it")
    if bad := [name for name in tensors if not _MEMBER_NAME.fullmatch(f"{name}.safetensors")]:
        raise UserError(f"cannot write {where}: group name {quoted(bad[0])}; use only a to z and _")
    if len(tensors) >= MAX_MEMBERS:
        raise UserError(f"cannot write {where}: {len(tensors)} groups of tensors; join some, {MAX_MEMBERS - 1} fit")
    header = to_json({**metadata, "format": FORMAT, "version": VERSION}, f"the metadata of {where}")
    parse_json(header, f"the metadata of {where}")
    members = {f"{name}.safetensors": _to_safetensors(group, name, where) for name, group in sorted(tensors.items())}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {"metadata.json": header, **members}.items():
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, data)
    if buffer.tell() > MAX_BYTES:
        raise UserError(f"cannot write {where}: larger than {MAX_BYTES} bytes; save fewer tensors")
    if isinstance(destination, str | Path):
        write_atomically(destination, buffer.getvalue())
    else:
        destination.write(buffer.getvalue())


def _to_safetensors(group: Mapping[str, torch.Tensor], name: str, where: str) -> bytes:
    if "__metadata__" in group:  # the format's own key
        raise UserError(f"cannot write {where}: tensor name '__metadata__' is reserved; rename the tensor")
    _check_tensors(group, f"cannot write {where}")
    # A copy of its own for each tensor: safetensors refuses tensors that share memory or have gaps.
    copies = {key: torch.empty(value.shape, dtype=value.dtype).copy_(value.detach()) for key, value in group.items()}
    try:
        return safetensors.torch.save(copies)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"cannot write {where}: {name}: {first_line(error)}; rename or convert the tensor") from error


def _check_tensors(tensors: Mapping[str, torch.Tensor], complaint: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            kind = f"{tensor.layout} {tensor.dtype}"
            raise UserError(f"{complaint}: tensor {quoted(name)} is {kind}; convert it to dense float32")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{complaint}: tensor {quoted(name)} holds NaN or infinity; go back to an earlier file")


def read_archive(source: str | Path | BinaryIO) -> Archive:
    """Read an archive that ``write_archive`` wrote; tuples in its metadata come back as lists.

    Raises:
        UserError: the source is missing, damaged, hostile, of another format or version, or holds NaN or infinity.
    """
    with open_zip_safely(source, _MEMBER_NAME, methods=frozenset({zipfile.ZIP_STORED})) as archive:
        where = archive.where
        metadata = archive.read_json("metadata.json")
        if not isinstance(metadata, dict) or metadata.pop("format", None) != FORMAT:
            raise UserError(f"cannot read {where}: it is not a {FORMAT} archive; choose a file that {FORMAT} saved")
        version = metadata.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise UserError(f"cannot read {where}: format version {quoted(version)}, not {VERSION}; update {FORMAT}")
        tensors = {}
        for member in archive.names:
            if member != "metadata.json":
                tensors[member.removesuffix(".safetensors")] = _from_safetensors(archive.read(member), member, where)
    return Archive(metadata, tensors)


def _from_safetensors(data: bytes, member: str, where: str) -> dict[str, torch.Tensor]:
    try:
        if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
            raise ValueError(f"its header is larger than {MAX_HEADER_BYTES} bytes")
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the parser's own errors are not all of one kind, and the bytes may be hostile
        raise _refusal(where, f"{member}: {first_line(error)}") from error
    _check_tensors(tensors, f"cannot read {where}: {member}")
    return tensors


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return 16 hexadecimal digits that tell these tensors from others: the beginning of their SHA-256."""
    return hashlib.sha256(_to_safetensors(tensors, "weights", "memory")).hexdigest()[:16]


def flatten_optimizer(state_dict: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split a torch optimizer's state dict into its tensors and a JSON object that says where each belongs.

    Raises:
        UserError: the state holds something other than tensors, numbers, texts, lists, tuples and dicts.
    """
    tensors: dict[str, torch.Tensor] = {}

    def encode(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, dict):
            return {"items": [[key, encode(item, f"{path}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            items = [encode(item, f"{path}.{index}") for index, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise UserError(f"cannot save the optimizer: {path} is a {type(value).__name__}; use one of torch.optim")

    return tensors, {key: encode(value, key) for key, value in state_dict.items()}


def unflatten_optimizer(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Join what ``flatten_optimizer`` split; the result is equal to the original state dict, types included.

    Raises:
        UserError: a tensor is missing or left over, or the JSON object is not one that ``flatten_optimizer`` made.
    """
    used: set[str] = set()

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            used.add(content)
            return tensors[content]
        if kind == "tuple":
            return tuple(decode(item) for item in content)
        if kind == "items":
            return {key: decode(item) for key, item in content}
        raise ValueError(kind)

    try:
        state_dict = {key: decode(value) for key, value in metadata.items()}
        if unused := sorted(set(tensors) - used):
            raise ValueError(f"tensor {unused[0]} left over")
        if not isinstance(state_dict["state"], dict) or not isinstance(state_dict["param_groups"], list):
            raise ValueError("state or param_groups of another type")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        problem = quoted(first_line(error))
        raise UserError(f"cannot restore the optimizer: unexpected {problem}; use the file as it was saved") from error
    return state_dict


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Put what ``flatten_optimizer`` split into ``optimizer``, each state in its parameter's memory layout.

    Raises:
        UserError: as :func:`unflatten_optimizer`.
    """
    optimizer.load_state_dict(unflatten_optimizer(tensors, metadata))
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = laid_out(value, parameter)


def laid_out(state: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a state in the memory layout of its parameter: torch's fused optimisers go by memory, not by index."""
    return torch.empty_like(parameter, dtype=state.dtype, device=state.device).copy_(state)


def match_shapes(
    module_or_state_dict: torch.nn.Module | Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], where: str
) -> None:
    """Check that ``tensors`` has exactly the names and shapes of a module's state dict.

    Raises:
        UserError: the first missing, wrong-shaped or unexpected tensor.
    """
    expected = module_or_state_dict
    if isinstance(expected, torch.nn.Module):
        expected = expected.state_dict()
    remedy = "it belongs to another network: check the configuration"
    for name, tensor in expected.items():
        if name not in tensors:
            raise UserError(f"{where}: tensor {quoted(name)} is missing; {remedy}")
        if tensors[name].shape != tensor.shape:
            found, wanted = list(tensors[name].shape), list(tensor.shape)
            raise UserError(f"{where}: tensor {quoted(name)} has shape {found}, not {wanted}; {remedy}")
    for name in tensors:
        if name not in expected:
            raise UserError(f"{where}: unexpected tensor {quoted(name)}; {remedy}")
