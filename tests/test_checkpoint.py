"""Archives survive a round trip bit by bit, files are replaced whole or not at all, hostile input ends in one line."""

import errno
import io
import json
import os
import pickle
import re
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snnrl.checkpoint import (
    flatten_optimizer,
    match_shapes,
    open_zip_safely,
    read_archive,
    unflatten_optimizer,
    write_archive,
)
from snnrl.errors import UserError
from snnrl.files import read_json, write_atomically, write_json

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool]
DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
WEIGHTS = {"linear.weight": torch.arange(6.0).reshape(2, 3), "linear.bias": torch.tensor([0.5, -1.0])}
HEADER = b'{"format": "snnrl", "version": 1}'


class Payload:
    """Leaves a file in the working directory if anybody unpickles it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def zipped(members: Mapping[Any, bytes] | list[tuple[Any, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(name, data, compression)
    return buffer.getvalue()


def archived(tensors: Mapping[str, torch.Tensor] = WEIGHTS) -> bytes:
    buffer = io.BytesIO()
    write_archive(buffer, {"timesteps": 1}, {"model": tensors})
    return buffer.getvalue()


def with_metadata(text: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    return zipped({"metadata.json": text}, compression)


def with_member(name: Any, data: bytes = b"") -> bytes:
    return zipped([("metadata.json", HEADER), (name, data)])


def with_tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack("<Q", len(text) if length is None else length)
    return with_member("model.safetensors", prefix + text + data)


def tensor(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def with_directory_field(data: bytes, offset: int, form: str, value: int) -> bytes:
    """Overwrite a field in every entry of the central directory."""
    changed = bytearray(data)
    for entry in re.finditer(rb"PK\x01\x02", data):
        struct.pack_into(form, changed, entry.start() + offset, value)
    return bytes(changed)


def symbolic_link() -> bytes:
    member = zipfile.ZipInfo("model.safetensors")
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return with_member(member, b"/etc/passwd")


def declared_in_zip64(size: int) -> bytes:
    member = zipfile.ZipInfo("model.safetensors")
    member.extra = struct.pack("<HHQQ", 1, 16, size, size)
    data = with_directory_field(zipped({member: b"12345678"}), 20, "<I", 0xFFFFFFFF)
    return with_directory_field(data, 24, "<I", 0xFFFFFFFF)


def three_of_declared_size(size: int) -> bytes:
    data = zipped({"metadata.json": HEADER, "a.safetensors": b"1", "b.safetensors": b"2"})
    return with_directory_field(with_directory_field(data, 20, "<I", size), 24, "<I", size)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


HOSTILE: dict[str, bytes | Callable[[Path], Path]] = {
    "missing file": lambda folder: folder / "missing.zip",
    "missing folder": lambda folder: folder / "no" / "missing.zip",
    "folder": lambda folder: folder,
    "pipe": fifo,
    "path with a newline": lambda folder: folder / "two\nlines.zip",
    "path with a zero byte": lambda folder: folder / "a\0b.zip",
    "path of 5000 characters": lambda folder: folder / ("x" * 5000),
    "empty file": b"",
    "text file": b"hello\nworld",
    "pickle": pickle.dumps(Payload()),
    "truncated in the first member": archived()[:40],
    "truncated in the middle": archived()[: len(archived()) // 2],
    "truncated in the directory": archived()[:-40],
    "truncated by a byte": archived()[:-1],
    "changed tensor byte": flipped(archived(), archived().index(struct.pack("<ff", 0.5, -1.0))),
    "directory at a wrong offset": archived()[:-6] + b"\xff\xff\xff\x7f\0\0",
    "empty zip": zipped({}),
    "no metadata": zipped({"model.safetensors": safetensors.torch.save(WEIGHTS)}),
    "path traversal": with_member("../model.safetensors"),
    "absolute path": with_member("/tmp/model.safetensors"),
    "windows path": with_member("..\\model.safetensors"),
    "name with a newline": with_member("model\n.safetensors"),
    "name with a zero byte": with_member("model.safetensorsX").replace(b"safetensorsX", b"safetensors\0"),
    "pickle inside": with_member("model.pkl", pickle.dumps(Payload())),
    "pickle as safetensors": with_member("model.safetensors", pickle.dumps(Payload())),
    "upper-case name": with_member("Model.safetensors"),
    "folder inside": with_member("model.safetensors/"),
    "symbolic link": symbolic_link(),
    "17 members": zipped({"metadata.json": HEADER} | {f"{chr(97 + i)}.safetensors": b"" for i in range(16)}),
    "encrypted": with_directory_field(archived(), 8, "<H", 1),
    "strongly encrypted": with_directory_field(archived(), 8, "<H", 0x41),
    "bzip2": zipped({"metadata.json": HEADER}, zipfile.ZIP_BZIP2),
    "version needed 99": with_directory_field(archived(), 6, "<H", 99),
    "compressed 1000 times": zipped({"metadata.json": HEADER + b" " * 2**20}, zipfile.ZIP_DEFLATED),
    "8 GiB declared": declared_in_zip64(2**33),
    "2**63 bytes declared": declared_in_zip64(2**63),
    "12 GiB declared in all": three_of_declared_size(0xFFFFFFFE),
    "more declared than there is": with_directory_field(with_metadata(HEADER), 24, "<I", len(HEADER) + 9),
    "less declared than there is": with_directory_field(
        with_metadata(HEADER + b" " * 50, zipfile.ZIP_DEFLATED), 24, "<I", len(HEADER)
    ),
    "metadata of 17 MiB": with_metadata(HEADER + b" " * 17 * 2**20),
    "metadata not JSON": with_metadata(b"{format: snnrl}"),
    "metadata not UTF-8": with_metadata(b'{"format": "\xff\xfe"}'),
    "metadata empty": with_metadata(b""),
    "metadata a list": with_metadata(b'["format", "snnrl"]'),
    "metadata a pickle": with_metadata(pickle.dumps(Payload())),
    "metadata with NaN": with_metadata(HEADER[:-1] + b', "x": NaN}'),
    "metadata with 1e999": with_metadata(HEADER[:-1] + b', "x": -1e999}'),
    "metadata with 10000 digits": with_metadata(HEADER[:-1] + b', "x": ' + b"9" * 10_000 + b"}"),
    "metadata with a repeated key": with_metadata(HEADER[:-1] + b', "version": 1}'),
    "metadata 70 levels deep": with_metadata(HEADER[:-1] + b', "x": ' + b"[" * 70 + b"]" * 70 + b"}"),
    "metadata 100000 levels deep": with_metadata(HEADER[:-1] + b', "x": ' + b'[{"a":' * 50_000),
    "another format": with_metadata(b'{"format": "other\\nformat", "version": 1}'),
    "another version": with_metadata(b'{"format": "snnrl", "version": 2}'),
    "version true": with_metadata(b'{"format": "snnrl", "version": true}'),
    "version a long text": with_metadata(b'{"format": "snnrl", "version": "' + b"\\n" * 10_000 + b'"}'),
    "tensors empty": with_member("model.safetensors"),
    "tensor header of 2**63 bytes": with_tensors({}, length=2**63),
    "tensor header past the end": with_tensors({}, length=1000),
    "tensor header too short": with_tensors({"a": tensor()}, b"1234", length=5),
    "tensor header not JSON": with_tensors(b"{a: 1}"),
    "tensor header 10000 levels deep": with_tensors(b'{"a":' * 10_000),
    "unknown dtype": with_tensors({"a": tensor("F99")}, b"1234"),
    "complex dtype": with_tensors({"a": tensor("C64", (1,), (0, 8))}, b"12345678"),
    "float8": with_tensors({"a": tensor("F8_E4M3", (4,), (0, 4))}, b"1234"),
    "overlapping tensors": with_tensors({"a": tensor(), "b": tensor(offsets=(2, 6))}, b"123456"),
    "gap between tensors": with_tensors({"a": tensor(), "b": tensor(offsets=(6, 10))}, b"1234567890"),
    "reversed offsets": with_tensors({"a": tensor(offsets=(4, 0))}, b"1234"),
    "offsets past the end": with_tensors({"a": tensor(shape=(4,), offsets=(0, 16))}, b"1234"),
    "shape larger than its data": with_tensors({"a": tensor(shape=(2,))}, b"1234"),
    "negative shape": with_tensors({"a": tensor(shape=(-1,))}, b"1234"),
    "shape that overflows": with_tensors({"a": tensor(shape=(2**62, 2**62))}, b"1234"),
    "bytes after the tensors": with_tensors({"a": tensor()}, b"12345"),
    "NaN": with_member("model.safetensors", safetensors.torch.save({"a\nb": torch.tensor([1.0, float("nan")])})),
    "infinity": with_member("model.safetensors", safetensors.torch.save({"a": torch.tensor(float("-inf")).bfloat16()})),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archive_ends_in_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[case]
    path = content(tmp_path) if callable(content) else tmp_path / "agent.zip"
    if isinstance(content, bytes):
        path.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    sources = [path, str(path)] + ([io.BytesIO(content)] if isinstance(content, bytes) else [])
    for source in sources:
        with pytest.raises(UserError) as caught:
            read_archive(source)
        assert type(caught.value) is UserError
        assert str(caught.value).isprintable(), "one line"
        assert len(str(caught.value)) < 1000
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("encrypted", "'metadata.json' is encrypted"),
        ("symbolic link", "'model.safetensors' is not a regular file"),
        ("compressed 1000 times", "is compressed, which agents never are"),
        ("metadata of 17 MiB", "larger than 16777216 bytes"),
        ("12 GiB declared in all", "more than 4294967296 bytes in all"),
        ("path traversal", "'../model.safetensors' does not belong there"),
        ("overlapping tensors", "invalid offset"),
        ("another version", "format version '2', not 1; update snnrl"),
    ],
)
def test_message_names_the_reason(case: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(UserError) as caught:
        read_archive(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_repeated_member_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped([("metadata.json", HEADER), ("metadata.json", HEADER)])
    with pytest.raises(UserError, match=r"'metadata\.json' appears twice"):
        read_archive(io.BytesIO(data))


def test_lying_size_does_not_expand_in_memory() -> None:
    """A member that declares 2 MB but expands to 200 MB is cut off at what it declares."""
    data = zipped({"metadata.json": HEADER + b" " * 200 * 10**6}, zipfile.ZIP_DEFLATED)
    lying = with_directory_field(data, 24, "<I", 2 * 10**6)
    tracemalloc.start()
    with (
        open_zip_safely(io.BytesIO(lying), re.compile("metadata.json")) as archive,
        pytest.raises(UserError, match="CRC"),
    ):
        archive.read("metadata.json")
    assert tracemalloc.get_traced_memory()[1] < 50 * 10**6
    tracemalloc.stop()


def test_payload_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hostile pickles ask for would leave a file: otherwise the table would prove nothing."""
    monkeypatch.chdir(tmp_path)
    call, arguments = Payload().__reduce__()
    call(*arguments)
    assert (tmp_path / "executed").exists()


def bits(value: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    flat = value.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return value.dtype, value.shape, bytes(flat.view(torch.uint8).numpy())


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any finite bit pattern of any dtype and up to three axes, whole or as every second column of a larger tensor."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    whole = torch.randint(-(2**62), 2**62, [*shape[:-1], shape[-1] * 2] if shape else [], generator=generator)
    values = whole % 2 == 0 if dtype == torch.bool else whole.to(dtype) if not dtype.is_floating_point else None
    if values is None:
        values = (whole.double() / draw(st.sampled_from([1.0, 2.0**60, 2.0**80]))).clamp(-60000, 60000).to(dtype)
    return values[..., ::2] if shape else values


names = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, max_examples=150)
@given(
    groups=st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.dictionaries(names, tensors(), max_size=4), max_size=3
    ),
    metadata=st.dictionaries(st.text().filter(lambda key: key not in ("format", "version")), json_values, max_size=4),
)
def test_round_trip_is_exact_and_deterministic(groups: Any, metadata: Any) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    write_archive(first, metadata, groups)
    result = read_archive(first)
    assert json.dumps(result.metadata, sort_keys=True) == json.dumps(metadata, sort_keys=True)
    assert {name: {key: bits(value) for key, value in group.items()} for name, group in result.tensors.items()} == {
        name: {key: bits(value) for key, value in group.items()} for name, group in groups.items()
    }
    write_archive(second, dict(reversed(metadata.items())), {name: groups[name] for name in reversed(groups)})
    assert first.getvalue() == second.getvalue()


def test_tensors_that_share_memory_and_need_gradients_are_copied(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    write_archive(
        tmp_path / "a.zip", {}, {"model": {"a": weight, "b": weight, "c": weight.T, "d": weight[0].expand(4, 3)}}
    )
    read = read_archive(tmp_path / "a.zip").tensors["model"]
    assert torch.equal(read["c"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert read["d"].shape == (4, 3)
    assert read["a"].data_ptr() != read["b"].data_ptr()
    assert not read["a"].requires_grad


@pytest.mark.parametrize(
    ("metadata", "groups", "message"),
    [
        ({"format": "x"}, {}, "'format' is reserved"),
        ({"loss": float("nan")}, {}, "NaN"),
        ({}, {"Model": {}}, "group name 'Model'"),
        ({}, {"a" * count: {} for count in range(1, 17)}, "16 groups"),
        ({}, {"model": {"w": torch.tensor([float("inf")])}}, "'w' holds NaN or infinity"),
        ({}, {"model": {"w": torch.zeros(2, dtype=torch.complex64)}}, "complex64"),
        ({}, {"model": {"w": torch.eye(2).to_sparse()}}, "sparse"),
        ({}, {"model": {"__metadata__": torch.zeros(1)}}, "reserved"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(metadata: Any, groups: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_archive(tmp_path / "a.zip", metadata, groups)
    assert list(tmp_path.iterdir()) == []


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
    lambda parameters: torch.optim.AdamW(parameters, betas=(0.8, 0.9)),
    lambda parameters: torch.optim.RMSprop(parameters, momentum=0.9, centered=True),
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    lambda parameters: torch.optim.Adam(
        [{"params": parameters[:1], "lr": torch.tensor(0.3)}, {"params": parameters[1:]}]
    ),
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_optimizer_goes_on_exactly_where_it_was(make: Any, steps: int, tmp_path: Path) -> None:
    def trained(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor], count: int) -> None:
        for step in range(count):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 0.1 * step) + parameter.detach()
            optimizer.step()

    parameters = [torch.nn.Parameter(torch.arange(3.0)), torch.nn.Parameter(torch.tensor(2.0))]
    optimizer = make(parameters)
    trained(optimizer, parameters, steps)
    state, placement = flatten_optimizer(optimizer.state_dict())
    write_archive(tmp_path / "a.zip", {"optimizer": placement}, {"optimizer": state})
    metadata, groups = read_archive(tmp_path / "a.zip")
    restored = unflatten_optimizer(groups["optimizer"], metadata["optimizer"])
    assert repr(sorted(restored.items())) == repr(sorted(optimizer.state_dict().items())), "types, order and values"
    copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    other = make(copies)
    other.load_state_dict(restored)
    trained(optimizer, parameters, 2)
    trained(other, copies, 2)
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


STEP_AS_FLOAT = {"state": {0: {"step": 3.0, "none": None}}, "param_groups": [{"betas": (0.9, 1e-300), "params": [0]}]}


def test_optimizer_state_of_plain_numbers_keeps_its_types() -> None:
    state, placement = flatten_optimizer(STEP_AS_FLOAT)
    assert state == {}
    assert repr(unflatten_optimizer({}, json.loads(json.dumps(placement)))) == repr(STEP_AS_FLOAT)


@pytest.mark.parametrize(
    "placement",
    [
        *({}, [], {"state": 1, "param_groups": []}, {"state": {"tensor": "gone"}}, {"state": {"items": 3}}),
        *(
            {"state": {"items": [[[], 1]]}},
            {"state": {"call": "os.system"}},
            {"state": {"tensor": ["a"]}},
            {"state": {}},
        ),
    ],
)
def test_garbled_optimizer_is_refused(placement: Any) -> None:
    with pytest.raises(UserError, match="cannot restore the optimizer"):
        unflatten_optimizer({}, placement)
    valid = flatten_optimizer(STEP_AS_FLOAT)[1]
    with pytest.raises(UserError, match="left over"):
        unflatten_optimizer({"extra": torch.zeros(1)}, valid)


def test_match_shapes_names_the_first_difference() -> None:
    module = torch.nn.Linear(3, 2)
    match_shapes(module, module.state_dict(), "a.zip")
    with pytest.raises(UserError, match=r"a\.zip: tensor 'bias' is missing"):
        match_shapes(module, {"weight": torch.zeros(2, 3)}, "a.zip")
    with pytest.raises(UserError, match=r"'weight' has shape \[3, 2\], not \[2, 3\]"):
        match_shapes(module.state_dict(), {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, "a.zip")
    with pytest.raises(UserError, match="unexpected tensor 'extra'"):
        match_shapes(module, module.state_dict() | {"extra": torch.zeros(1)}, "a.zip")


class FullDisk:
    """A file on a disk with room for 10 bytes."""

    def __init__(self, path: Any, mode: str) -> None:
        self._file = io.FileIO(path, mode)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.none() | st.binary(),
    new=st.binary(min_size=11),
    failing=st.sampled_from(["write", "os.fsync", "os.replace", "interrupt"]),
)
def test_failed_write_leaves_the_old_file_alone(
    old: bytes | None, new: bytes, failing: str, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("disk")
    if old is not None:
        (folder / "a.bin").write_bytes(old)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt if failing == "interrupt" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        if failing == "write":
            patch.setattr("builtins.open", FullDisk)
        else:
            patch.setattr("os.replace" if failing == "interrupt" else failing, fail)
        with pytest.raises((UserError, KeyboardInterrupt)) as caught:
            write_atomically(folder / "a.bin", new)
    if failing != "interrupt":
        assert re.fullmatch(r"cannot write '.*a\.bin': No space left on device; .*", str(caught.value))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == ({} if old is None else {"a.bin": old})
    write_atomically(folder / "a.bin", new)
    assert [file.read_bytes() for file in folder.iterdir()] == [new]


def test_json_is_canonical_and_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 0.1], "a": "\u00e9"})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    0.1\n  ]\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": "\u00e9", "b": [1, 0.1]}
    with pytest.raises(UserError, match="NaN"):
        write_json(tmp_path / "a.json", {"a": float("inf")})
    for text in (b"", b"{", b"\xff", b'{"a": 1, "a": 2}', b"[Infinity]", b"[" * 10**5, b"1e999"):
        (tmp_path / "b.json").write_bytes(text)
        with pytest.raises(UserError, match=r"b\.json': not valid JSON: .+; ") as caught:
            read_json(tmp_path / "b.json")
        assert str(caught.value).isprintable()
    for path in (tmp_path, tmp_path / "missing.json", tmp_path / "a.json" / "b.json"):
        with pytest.raises(UserError, match="cannot read"):
            read_json(path)
        with pytest.raises(UserError, match="cannot write"):
            write_json(path / "no" / "c.json", 1)
