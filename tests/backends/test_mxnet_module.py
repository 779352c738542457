"""MXNet sparse optimizers without a Trainer: Module, plain updaters, and what their saved states carry."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)

from mopruning.backends import mxnet
from mopruning.backends.mxnet.framework import mx
from mopruning.errors import RecipeError, StateError
from tests.backends.mxnet_networks import share

SPARSE = {"target_sparsity": 0.75, "pretrain_step": 2, "sparse_step": 4, "frequency": 2}
TWO = [mx.cpu(0), mx.cpu(1)]
WEIGHTS = {"conv_weight": (8, 4, 3, 3), "up_weight": (8, 6, 3, 3), "fc_weight": (5, 6)}


def symbol():
    x = mx.sym.Activation(mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=8, name="conv"), "relu")
    x = mx.sym.Deconvolution(x, kernel=(3, 3), num_filter=6, name="up")
    x = mx.sym.FullyConnected(mx.sym.mean(x, axis=(2, 3)), num_hidden=5, name="fc")
    return mx.sym.SoftmaxOutput(x, mx.sym.var("softmax_label"), name="softmax")


def module(contexts=None, fixed=(), seed=0):
    net = mx.mod.Module(symbol(), context=contexts or [mx.cpu(0)], fixed_param_names=list(fixed))
    net.bind(data_shapes=[("data", (4, 4, 8, 8))], label_shapes=[("softmax_label", (4,))])
    mx.random.seed(seed)
    net.init_params(mx.init.Xavier())
    return net


def step(net, seed):
    random = np.random.default_rng(seed)
    data, label = mx.nd.empty((4, 4, 8, 8)), mx.nd.empty((4,))
    data[:], label[:] = random.standard_normal(data.shape), random.integers(0, 5, 4)
    net.forward_backward(mx.io.DataBatch([data], [label]))
    net.update()


def copies(net):
    group = net._exec_group
    return {name: [a.asnumpy() for a in group.param_arrays[group.param_names.index(name)]] for name in WEIGHTS}


def assert_sparse(net, optimizer):
    for name, mask in optimizer.pruner.masks.items():
        native = mask.swapaxes(0, 1) if mask.shape == (6, 8, 3, 3) else mask
        for values in copies(net)[name]:
            assert not values[~native].any(), name
            np.testing.assert_array_equal(values, copies(net)[name][0])


@pytest.mark.parametrize(
    ("contexts", "store"), [([mx.cpu(0)], "local"), (TWO, "local"), (TWO, None)], ids=["one", "on the store", "beside"]
)
@pytest.mark.parametrize("named", ["module", "nothing"])
def test_module(contexts, store, named):
    net = module(contexts)
    source = {"param_name": net} if named == "module" else {}
    optimizer = mxnet.NAGSparse(learning_rate=0.1, momentum=0.9, rescale_grad=0.25, **SPARSE, **source)
    if store is None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MXNET_UPDATE_ON_KVSTORE", "0")
            net.init_optimizer(kvstore="local", optimizer=optimizer)
    else:
        net.init_optimizer(kvstore=store, optimizer=optimizer)
    if named == "nothing" and net._update_on_kvstore:
        with pytest.raises(StateError, match="param_name=module"):  # the contexts' copies are out of reach
            optimizer.update("fc_weight", mx.nd.ones((5, 6)), mx.nd.ones((5, 6)), None)
        return
    for seed in range(8):
        step(net, seed)
        assert optimizer.pruner.steps == seed + 1
        assert bool(optimizer.pruner.masks) == (seed + 1 >= 2)
        assert_sparse(net, optimizer)
    assert {row.name for row in optimizer.plan.pruned} == set(WEIGHTS)
    assert [share(values[0]) for values in copies(net).values()] == pytest.approx([0.75] * 3, abs=0.02)
    shapes = {row.name: row.shape for row in optimizer.plan.rows}
    assert shapes["up_weight"] == ((6, 8, 3, 3) if named == "module" else (8, 6, 3, 3))


def test_module_creates_the_optimizer_by_name():
    net = module()
    parameters = {"learning_rate": 0.1, "param_name": net, "target_sparsity": 0.5}
    net.init_optimizer(optimizer="sgdsparse", optimizer_params=parameters)
    step(net, 0)
    assert share(copies(net)["fc_weight"][0]) == 0.5


@pytest.mark.parametrize("contexts", [[mx.cpu(0)], TWO], ids=["one", "two"])
def test_fixed_parameters_of_a_module(contexts):
    net = module(contexts, fixed=["conv_weight", "conv_bias"])
    optimizer = mxnet.SGDSparse(learning_rate=0.1, rescale_grad=0.25, param_name=net, target_sparsity=0.5)
    net.init_optimizer(optimizer=optimizer)
    for seed in range(3):
        step(net, seed)
    assert optimizer.pruner.steps == 3
    assert [share(values[0]) for values in copies(net).values()] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("contexts", [[mx.cpu(0)], TWO], ids=["one", "two"])
def test_buckets_share_their_masks(contexts):
    def bucket(_):
        x = mx.sym.FullyConnected(mx.sym.mean(mx.sym.var("data"), axis=2), num_hidden=5, name="fc")
        return mx.sym.SoftmaxOutput(x, mx.sym.var("softmax_label"), name="softmax"), ("data",), ("softmax_label",)

    net = mx.mod.BucketingModule(bucket, default_bucket_key=8, context=contexts)
    net.bind([("data", (4, 6, 8))], [("softmax_label", (4,))])
    net.init_params(mx.init.Xavier())
    optimizer = mxnet.SGDSparse(learning_rate=0.1, momentum=0.9, rescale_grad=0.25, param_name=net, **SPARSE)
    net.init_optimizer(optimizer=optimizer)
    prune = mxnet.Prune(net, prune_dict={"fc_weight": 0.75}, balance="none")
    for key in (8, 4, 8, 4, 4, 8, 4):
        data, label = mx.nd.random.normal(shape=(4, 6, key)), mx.nd.zeros((4,))
        shapes = {"provide_data": [("data", data.shape)], "provide_label": [("softmax_label", (4,))]}
        net.forward_backward(mx.io.DataBatch([data], [label], bucket_key=key, **shapes))
        net.update()
    assert optimizer.pruner.steps == 7
    group = net._curr_module._exec_group
    for array in group.param_arrays[group.param_names.index("fc_weight")]:
        assert share(array) == pytest.approx(0.75, abs=1 / 30)
    prune.prune()
    assert prune.sparsity()[1] == pytest.approx(0.75, abs=1 / 30)


def test_modules_without_weights_of_their_own_are_refused():
    chain = mx.mod.SequentialModule()
    chain.add(mx.mod.Module(symbol()), take_labels=True, auto_wiring=True)
    chain.bind([("data", (4, 4, 8, 8))], [("softmax_label", (4,))])
    chain.init_params()
    with pytest.raises(TypeError, match="Module or BucketingModule, got SequentialModule"):
        mxnet.Prune(chain, prune_dict={"fc_weight": 0.5})


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:Exception ignored in. <_io.FileIO")  # MXNet's open files
@pytest.mark.parametrize("contexts", [[mx.cpu(0)], TWO], ids=["one", "two"])
@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_module_checkpoint_resumes(contexts, score, tmp_path):
    def start(seed):
        net = module(contexts, seed=seed)
        options = {"momentum": 0.9, "rescale_grad": 0.25, "param_name": net, "score": score, **SPARSE}
        optimizer = mxnet.SGDSparse(learning_rate=0.1, **options)
        return net, optimizer

    net, optimizer = start(0)
    net.init_optimizer(optimizer=optimizer)
    for seed in range(3):
        step(net, seed)
    net.save_checkpoint(str(tmp_path / "net"), 3, save_optimizer_states=True)
    for seed in range(3, 9):
        step(net, seed)

    again, its_optimizer = start(1)
    _, arguments, auxiliary = mx.model.load_checkpoint(str(tmp_path / "net"), 3)
    again.set_params(arguments, auxiliary)
    again.init_optimizer(optimizer=its_optimizer)
    again.load_optimizer_states(str(tmp_path / "net-0003.states"))
    for seed in range(3, 9):
        step(again, seed)
        assert_sparse(again, its_optimizer)
    assert its_optimizer.pruner.steps == optimizer.pruner.steps == 9
    for name, arrays in copies(net).items():
        np.testing.assert_array_equal(copies(again)[name][0], arrays[0], name)
    plain = mx.nd.load(str(tmp_path / "net-0003.params"))
    assert set(plain) == {f"arg:{name}" for name in (*WEIGHTS, "conv_bias", "up_bias", "fc_bias")} - {"arg:up_bias"}


# --- plain updaters --------------------------------------------------------------------------------------------------


def weights(seed=0):
    random = np.random.default_rng(seed)
    arrays = {"a": mx.nd.empty((8, 6)), "b": mx.nd.empty((4, 6)), "c": mx.nd.empty((6,))}
    for array in arrays.values():
        array[:] = random.standard_normal(array.shape)
    return arrays


def slopes(arrays, seed):
    random = np.random.default_rng(seed)
    result = []
    for array in arrays.values():
        result.append(mx.nd.empty(array.shape))
        result[-1][:] = random.standard_normal(array.shape)
    return result


def one_by_one(updater, arrays, seed):
    for index, (array, slope) in enumerate(zip(arrays.values(), slopes(arrays, seed), strict=True)):
        updater(index, slope, array)


def all_at_once(updater, arrays, seed):
    updater(list(range(len(arrays))), slopes(arrays, seed), list(arrays.values()))


def by_hand(optimizer):
    states = {}

    def update(_, arrays, seed):
        for index, (array, slope) in enumerate(zip(arrays.values(), slopes(arrays, seed), strict=True)):
            if index not in states:
                states[index] = optimizer.create_state(index, array)
            optimizer.update(index, array, slope, states[index])

    return update


@pytest.mark.parametrize("way", ["one by one", "all at once", "by hand"])
@pytest.mark.parametrize("names", ["arrays", "pairs", "indices"])
@pytest.mark.filterwarnings("ignore:this optimizer state has no sparsity section")  # of states made by hand
def test_plain_updates(way, names):
    arrays = weights()
    given = {
        "arrays": {"param_name": arrays},
        "pairs": {"param_name": list(arrays.items())},
        "indices": {"param_idx2name": dict(enumerate(arrays))},
    }[names]
    optimizer = mxnet.SGDSparse(learning_rate=0.1, momentum=0.9, **SPARSE, **given)
    updater = mx.optimizer.get_updater(optimizer)
    update = {"one by one": one_by_one, "all at once": all_at_once, "by hand": by_hand(optimizer)}[way]
    for seed in range(8):
        update(updater, arrays, seed)
        assert optimizer.pruner.steps == seed + 1
        for name, mask in optimizer.pruner.masks.items():
            assert not arrays[name].asnumpy()[~mask].any()
    assert [share(array) for array in arrays.values()] == [0.75, 0.75, 0.0]


@pytest.mark.parametrize("whole", [False, True])
def test_updater_states_resume(whole):
    def start(seed):
        arrays = weights(seed)
        optimizer = mxnet.NAGSparse(learning_rate=0.1, momentum=0.9, param_name=arrays, score="movement", **SPARSE)
        return arrays, mx.optimizer.get_updater(optimizer)

    arrays, updater = start(0)
    for seed in range(3):
        all_at_once(updater, arrays, seed)
    saved = updater.get_states(dump_optimizer=whole)
    values = {name: array.asnumpy() for name, array in arrays.items()}
    for seed in range(3, 9):
        all_at_once(updater, arrays, seed)

    again, second = start(1)
    for name, array in again.items():
        array[:] = values[name]
    second.set_states(saved)
    all_at_once(second, again, 3)
    kept = second.get_states()
    for seed in range(4, 9):
        all_at_once(second, again, seed)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name].asnumpy(), array.asnumpy(), name)
    assert second.optimizer.pruner.steps == 9
    for name, mask in second.optimizer.pruner.masks.items():
        assert not again[name].asnumpy()[~mask].any()
    assert pickle.loads(kept)[0].rounds.state_dict()["steps"] == 4


def test_what_is_missing_is_named():
    arrays = weights()
    optimizer = mxnet.SGDSparse(target_sparsity=0.5)
    with pytest.raises(StateError, match=r"index 0, which has no name: .*param_idx2name"):
        one_by_one(mx.optimizer.get_updater(optimizer), arrays, 0)

    optimizer = mxnet.SGDSparse(target_sparsity=0.5, param_idx2name={0: "a", 1: "b", 2: "c", 3: "d"})
    updater = mx.optimizer.get_updater(optimizer)
    one_by_one(updater, arrays, 0)
    with pytest.raises(StateError, match="a was updated twice, d not once"):
        one_by_one(updater, arrays, 1)

    for arguments in ({"resume": True}, {"L1_regularization": True}, {"score": "movement"}):
        optimizer = mxnet.SGDSparse(target_sparsity=0.5, param_idx2name={0: "a", 1: "b", 2: "c"}, **arguments)
        with pytest.raises(StateError, match="before the first update"):
            one_by_one(mx.optimizer.get_updater(optimizer), arrays, 0)

    with pytest.raises(TypeError, match="weird: expected a gluon Parameter or an NDArray, got float"):
        mxnet.SGDSparse(target_sparsity=0.5, param_name={"weird": 1.0})
    with pytest.raises(RecipeError, match="two parameters are called 'a'"):
        mxnet.SGDSparse(target_sparsity=0.5, param_name=[("a", arrays["a"]), ("a", arrays["b"])])


def test_states_without_masks_warn():
    arrays = weights()
    native = mx.optimizer.get_updater(mx.optimizer.SGD(momentum=0.9, learning_rate=0.1))
    all_at_once(native, arrays, 0)
    updater = mx.optimizer.get_updater(
        mxnet.SGDSparse(momentum=0.9, learning_rate=0.1, target_sparsity=0.5, param_name=arrays)
    )
    updater.set_states(native.get_states())
    with pytest.warns(UserWarning, match="no sparsity section"):
        all_at_once(updater, arrays, 1)
    assert share(arrays["a"]) == 0.5

    dense = mx.optimizer.get_updater(mxnet.SGDSparse(momentum=0.9, learning_rate=0.1))
    sparse = mxnet.SGDSparse(momentum=0.9, learning_rate=0.1, target_sparsity=0.5, param_name=arrays)
    sparse = mx.optimizer.get_updater(sparse)
    all_at_once(sparse, arrays, 1)
    dense.set_states(sparse.get_states())
    with pytest.warns(UserWarning, match="fix_sparsity"):
        all_at_once(dense, arrays, 2)
    assert share(arrays["a"]) < 0.5


def test_states_of_another_plan_are_refused():
    def updater_at(target):
        arrays = weights()
        optimizer = mxnet.SGDSparse(momentum=0.9, learning_rate=0.1, target_sparsity=target, param_name=arrays)
        return mx.optimizer.get_updater(optimizer), arrays

    one, arrays = updater_at(0.9)
    all_at_once(one, arrays, 0)
    other, arrays = updater_at(0.5)
    other.set_states(one.get_states())
    before = arrays["a"].asnumpy()
    with pytest.raises(StateError, match=r"another plan: a: target 0\.5 here, 0\.9 there"):
        all_at_once(other, arrays, 1)
    np.testing.assert_array_equal(arrays["a"].asnumpy(), before)
