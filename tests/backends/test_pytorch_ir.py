"""From PyTorch to the IR and back: what arrives computes, is called and trains as what was sent."""

from __future__ import annotations

import copy
import io
import os
import pickle

import pytest

torch = pytest.importorskip("torch")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from mopruning.backends import pytorch  # noqa: E402
from mopruning.ir.ties import ties_of  # noqa: E402
from mopruning.ir.validation import validate  # noqa: E402
from tests.backends.pytorch_ir_networks import (  # noqa: E402
    NETWORKS,
    assert_close,
    bits,
    build,
    loss_of,
    outputs_of,
    run,
    sent,
    watched,
)


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def larger(inputs):
    """Another batch size than that of the example."""
    return tuple(torch.cat([value, value.flip(0), value]) for value in inputs)


def test_onnxruntime_computes_the_same(name):
    module, inputs, model = sent(name)
    for batch in (inputs, larger(inputs), tuple(value[:1] for value in inputs)):
        for actual, expected in zip(run(model, batch), outputs_of(module, batch), strict=True):
            assert_close(actual, expected)


def test_what_returns_computes_the_same(name):
    module, inputs, model = sent(name)
    returned = pytorch.from_ir(model)
    assert returned.training
    for actual, expected in zip(outputs_of(returned, larger(inputs)), outputs_of(module, larger(inputs)), strict=True):
        assert_close(actual, expected)


def test_names_dtypes_and_zeros_are_identical(name):
    module, _, model = sent(name)
    returned = pytorch.from_ir(model)
    expected = module.state_dict()
    assert bits(returned.state_dict()) == bits(expected)
    assert {key for key, _ in returned.named_parameters()} == {key for key, _ in module.named_parameters()}
    assert all(parameter.requires_grad for parameter in returned.parameters())
    held = {key: value.const_value.numpy().tobytes() for key, value in model.graph.initializers.items()}
    for key, value in expected.items():
        if not key.endswith("num_batches_tracked"):
            key = ties_of(model).get(key, key)
            assert held[key] == value.numpy().tobytes(), key


@pytest.mark.parametrize("name", ["resnet", "decoder", "recurrent"])
def test_second_journey_gives_the_same_graph(name):
    _, inputs, model = sent(name)
    again = pytorch.to_ir(pytorch.from_ir(model), inputs)
    validate(again)
    assert sorted(node.op_type for node in again.graph) == sorted(node.op_type for node in model.graph)
    layers = {node.name for node in model.graph if node.op_type in ("Conv", "Gemm", "BatchNormalization", "LSTM")}
    assert layers <= {node.name for node in again.graph}
    parameters = {key for key, _ in pytorch.from_ir(model).named_parameters()}
    assert parameters == {key for key, _ in pytorch.from_ir(again).named_parameters()}


def test_training_starts_as_the_original_would_and_the_loss_falls(name):
    module, inputs, model = sent(name)
    original, returned = copy.deepcopy(module).train(), pytorch.from_ir(model)
    optimizer = torch.optim.SGD(returned.parameters(), lr=0.02)
    first = loss_of(returned, inputs)
    torch.testing.assert_close(first, loss_of(original, inputs), rtol=1e-4, atol=0)
    gradients = torch.autograd.grad(loss_of(original, inputs), [*original.parameters()], allow_unused=True)
    for step in range(5):
        optimizer.zero_grad()
        loss_of(returned, inputs).backward()
        if step == 0:
            wanted = dict(zip(dict(original.named_parameters()), gradients, strict=True))
            for key, parameter in returned.named_parameters():
                limit = 1e-3 * float(wanted[key].abs().max()) + 1e-6
                assert float((parameter.grad - wanted[key]).abs().max()) <= limit, key
        optimizer.step()
    assert loss_of(returned, inputs).item() < first.item()


def test_statistics_follow_the_batches_as_in_the_original():
    module, inputs, model = sent("vgg")
    original, returned = copy.deepcopy(module).train(), pytorch.from_ir(model)
    for _ in range(2):
        loss_of(original, inputs)
        loss_of(returned, inputs)
    before, after = module.state_dict(), returned.state_dict()
    for key, value in original.state_dict().items():
        torch.testing.assert_close(after[key], value, rtol=1e-5, atol=1e-6)
        if "running" in key:
            assert not torch.equal(after[key], before[key])
    assert int(after["0.1.num_batches_tracked"]) == int(before["0.1.num_batches_tracked"]) + 2


def test_dropout_drops_in_training_only():
    _, inputs, model = sent("vgg")
    returned = pytorch.from_ir(model)
    kinds = {type(part): part.p for part in returned.modules() if "Dropout" in type(part).__name__}
    assert kinds == {nn.Dropout: 0.5, nn.Dropout2d: 0.2}
    with torch.no_grad():
        torch.manual_seed(0)
        first = returned(*inputs)
        assert not torch.equal(first, returned(*inputs))
        returned.eval()
        assert torch.equal(returned(*inputs), returned(*inputs))


def test_module_stays_as_it_is(name):
    before, after = watched(name)
    assert after == before
    assert all(before["modes"])


def test_no_memory_is_shared(name):
    module, _, model = sent(name)
    returned = pytorch.from_ir(model)
    held = {key: value.const_value.numpy().tobytes() for key, value in model.graph.initializers.items()}
    state = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        for changed in (*module.state_dict().values(), *returned.state_dict().values()):
            changed += 1
    assert {key: value.const_value.numpy().tobytes() for key, value in model.graph.initializers.items()} == held
    module.load_state_dict(state)


def test_model_stays_as_it_is_when_read(name):
    _, _, model = sent(name)
    before = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    generator = torch.get_rng_state()
    pytorch.from_ir(model)
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_deep_copy_is_a_network_of_its_own(name):
    _, inputs, model = sent(name)
    returned = pytorch.from_ir(model)
    expected = outputs_of(returned, inputs)
    copies = [copy.deepcopy(returned), copy.deepcopy(copy.deepcopy(returned))]
    if name == "vit":  # PyTorch traces a graph module anew to unpickle it, and folds what depends on buffers alone
        copies.append(pickle.loads(pickle.dumps(returned)))
    for copied in copies:
        assert bits(copied.state_dict()) == bits(returned.state_dict())
        for actual, wanted in zip(outputs_of(copied, inputs), expected, strict=True):
            assert torch.equal(actual, wanted)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        assert bits(copied.state_dict()) != bits(returned.state_dict())
    for actual, wanted in zip(outputs_of(returned, inputs), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_states_load_in_either_direction(name):
    module, _, model = sent(name)
    returned = pytorch.from_ir(model)
    fresh, _ = build(name, sparsity=0.9)
    returned.load_state_dict(fresh.state_dict())
    assert bits(returned.state_dict()) == bits(fresh.state_dict())
    fresh.load_state_dict(pytorch.from_ir(model).state_dict())
    assert bits(fresh.state_dict()) == bits(module.state_dict())
    plain = dict(pytorch.from_ir(model).state_dict())  # without the metadata of state_dict, as other formats load it
    returned.load_state_dict(plain)
    stream = io.BytesIO()
    torch.save(returned.state_dict(), stream)
    stream.seek(0)
    returned.load_state_dict(torch.load(stream, weights_only=True))
    assert bits(returned.state_dict()) == bits(plain)


@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_compiles_as_one_graph(name):
    _, inputs, model = sent(name)
    returned = pytorch.from_ir(model).eval()
    expected = outputs_of(returned, inputs)
    compiled = torch.compile(returned, backend="aot_eager", fullgraph=True)
    for actual, wanted in zip(outputs_of(compiled, inputs), expected, strict=True):
        assert_close(actual, wanted)


def test_trains_in_distributed_data_parallel(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch is built without torch.distributed")
    _, inputs, model = sent("resnet")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(pytorch.from_ir(model))
        single = pytorch.from_ir(model)
        for network in (wrapped, single):
            loss_of(network, inputs).backward()
        for (key, actual), (_, wanted) in zip(
            wrapped.module.named_parameters(), single.named_parameters(), strict=True
        ):
            assert torch.equal(actual.grad, wanted.grad), key
        again = pytorch.to_ir(wrapped, inputs)  # the wrapper is looked through
    finally:
        distributed.destroy_process_group()
    assert set(again.graph.initializers) == set(model.graph.initializers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_arrive_bit_for_bit(dtype):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).to(dtype)
    with torch.no_grad():
        module[0].weight[0] = -0.0
        module[0].weight[1] = 0.0
    model = pytorch.to_ir(module, torch.zeros(1, 3, 8, 8, dtype=dtype))
    returned = pytorch.from_ir(model)
    assert {key: value.dtype for key, value in returned.state_dict().items()} == {
        key: value.dtype for key, value in module.state_dict().items()
    }
    for key, value in module.state_dict().items():
        words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        assert torch.equal(returned.state_dict()[key].view(words), value.view(words)), key
    x = torch.randn(3, 3, 8, 8).to(dtype)
    actual, expected = outputs_of(returned, (x,))[0], outputs_of(module, (x,))[0]
    assert torch.equal(actual, expected)
