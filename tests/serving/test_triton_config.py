"""The text that is written means to Triton what was put in, by Triton's own schema."""

from __future__ import annotations

import pytest

from monai_ext.serving.triton_config import FREE, Batching, ServedModel, ServedTensor, WarmUp, config_text

text_format = pytest.importorskip("google.protobuf.text_format")
model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")


def model(**changes: object) -> ServedModel:
    fields = {
        "name": "scan_onnx_labels",
        "backend": "onnxruntime",
        "inputs": (ServedTensor("image", "float32", (1, FREE, 16)),),
        "outputs": (ServedTensor("labels", "uint8", (1, FREE, 16), "classes.txt"),),
        "batching": Batching(8, (2, 4, 8), 250),
        "instances": 3,
        "device": "gpu",
        "parameters": {"quoted": 'a "b"\n\\c ä', "threads": "2"},
        "warm_ups": (
            WarmUp("one", 1, {"image": (1, 8, 16)}, {}),
            WarmUp("file", 8, {"image": (1, 8, 16)}, {"image": "x"}),
        ),
    }
    return ServedModel(**{**fields, **changes})  # type: ignore[arg-type]


def parsed(served: ServedModel) -> object:
    return text_format.Parse(config_text(served), model_config_pb2.ModelConfig())


def test_every_field_is_where_triton_reads_it() -> None:
    config = parsed(model())
    assert (config.name, config.backend, config.max_batch_size) == ("scan_onnx_labels", "onnxruntime", 8)
    (source,), (result,) = config.input, config.output
    assert (source.name, source.data_type, list(source.dims)) == ("image", model_config_pb2.TYPE_FP32, [1, -1, 16])
    assert (result.name, result.data_type, list(result.dims)) == ("labels", model_config_pb2.TYPE_UINT8, [1, -1, 16])
    assert result.label_filename == "classes.txt"
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, model_config_pb2.ModelInstanceGroup.KIND_GPU)
    assert config.version_policy.latest.num_versions == 2
    # letters, quotation marks and line ends come back as they were
    assert {k: v.string_value for k, v in config.parameters.items()} == {"quoted": 'a "b"\n\\c ä', "threads": "2"}
    zeros, file = config.model_warmup
    assert (zeros.batch_size, zeros.inputs["image"].zero_data, list(zeros.inputs["image"].dims)) == (
        1,
        True,
        [1, 8, 16],
    )
    assert (file.batch_size, file.inputs["image"].input_data_file) == (8, "x")


def test_what_is_not_wanted_is_not_written() -> None:
    config = parsed(model(batching=Batching(0), parameters={}, warm_ups=(), device="cpu"))
    assert not config.HasField("dynamic_batching")
    assert not config.parameters
    assert not config.model_warmup
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
