"""`config.pbtxt` of a model in a repository of NVIDIA Triton Inference Server.

The fields are those of `ModelConfig` in Triton's model_config.proto. The text is protobuf's text format, written here
so that making a repository needs no protobuf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# numpy's names of types to Triton's
DATA_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16"}
DEVICES = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
FREE = -1  # a size that requests choose
VERSIONS_KEPT = 2  # the newest, and the one before for clients that name it


class _Word(str):
    """A value without quotation marks: a name of an enumeration."""


@dataclass(frozen=True)
class ServedTensor:
    """An input or output.

    Attributes:
        name: what requests call it.
        dtype: numpy's name, one of `DATA_TYPES`.
        dims: sizes, `FREE` where requests choose; without the batch where the server batches.
        label_file: text file beside config.pbtxt with the name of a class in each line; empty for none.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    label_file: str = ""


@dataclass(frozen=True)
class Batching:
    """How the server puts requests together.

    Attributes:
        max_batch_size: of a batch; 0: requests are not put together and hold their own batch axis, if any.
        preferred: sizes to wait for; empty: none is better than another.
        queue_delay_us: how long a request waits for others, microseconds.
    """

    max_batch_size: int = 4
    preferred: tuple[int, ...] = (2, 4)
    queue_delay_us: int = 100


@dataclass(frozen=True)
class WarmUp:
    """A request that the server makes before it says that it is ready.

    Attributes:
        name: in the server's log.
        batch_size: 1 for models that are not batched.
        dims: by input, all known.
        files: by input, a file of raw values in the folder `warmup`; inputs without one are zeros.
    """

    name: str
    batch_size: int
    dims: Mapping[str, tuple[int, ...]]
    files: Mapping[str, str]


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository.

    Attributes:
        name: of the model and its folder.
        backend: `onnxruntime`, `pytorch` or `python`.
        inputs, outputs: in the order of the network's.
        batching: see the class.
        instances: copies that compute at the same time.
        device: `cpu` or `gpu`.
        parameters: of the backend.
        warm_ups: see the class.
    """

    name: str
    backend: str
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    batching: Batching
    instances: int
    device: str
    parameters: Mapping[str, str]
    warm_ups: tuple[WarmUp, ...] = ()


def config_text(model: ServedModel) -> str:
    """Content of the model's `config.pbtxt`."""
    types = {tensor.name: tensor.dtype for tensor in model.inputs}
    fields: dict[str, Any] = {
        "name": model.name,
        "backend": model.backend,
        "max_batch_size": model.batching.max_batch_size,
        "input": [_tensor(tensor) for tensor in model.inputs],
        "output": [_tensor(tensor) for tensor in model.outputs],
        "instance_group": [{"count": model.instances, "kind": _Word(DEVICES[model.device])}],
        "version_policy": {"latest": {"num_versions": VERSIONS_KEPT}},
    }
    if model.batching.max_batch_size:
        sizes = {"preferred_batch_size": list(model.batching.preferred)} if model.batching.preferred else {}
        fields["dynamic_batching"] = {**sizes, "max_queue_delay_microseconds": model.batching.queue_delay_us}
    fields["parameters"] = [{"key": k, "value": {"string_value": v}} for k, v in model.parameters.items()]
    fields["model_warmup"] = [_warm_up(warm_up, types) for warm_up in model.warm_ups]
    return _text({name: value for name, value in fields.items() if value != []})


def _tensor(tensor: ServedTensor) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": tensor.name,
        "data_type": _Word(DATA_TYPES[tensor.dtype]),
        "dims": list(tensor.dims),
    }
    return {**fields, "label_filename": tensor.label_file} if tensor.label_file else fields


def _warm_up(warm_up: WarmUp, types: Mapping[str, str]) -> dict[str, Any]:
    inputs = []
    for name, dims in warm_up.dims.items():
        file = warm_up.files.get(name)
        data = {"input_data_file": file} if file else {"zero_data": True}
        inputs.append({"key": name, "value": {"data_type": _Word(DATA_TYPES[types[name]]), "dims": list(dims), **data}})
    return {"name": warm_up.name, "batch_size": warm_up.batch_size, "inputs": inputs}


def _text(fields: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name} {{\n{_text(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Mapping):
            lines += [_text({name: entry}, indent) for entry in value]
        else:
            lines.append(f"{indent}{name}: {_value(value)}\n")
    return "".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, _Word):
        return str(value)
    if isinstance(value, str):
        # JSON's escapes of quotation marks, backslashes and line ends are protobuf's too; other letters stay UTF-8
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"[{', '.join(map(_value, value))}]" if isinstance(value, list) else str(value)
