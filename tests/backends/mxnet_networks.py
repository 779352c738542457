"""A small network for the tests of MXNet, and what they do with it."""

import numpy as np

from mopruning.backends.mxnet.framework import mx


def build(contexts=None, prefix="net_", dtype="float32", deferred=False, seed=0):
    """Build two convolutions with normalisation, and a classifier: everything a recipe tells apart."""
    layers = mx.gluon.nn
    net = layers.HybridSequential(prefix=prefix)
    with net.name_scope():
        net.add(layers.Conv2D(8, 3, in_channels=0 if deferred else 4, prefix="conv1_"))
        net.add(layers.BatchNorm(in_channels=0 if deferred else 8, prefix="bn1_"))
        net.add(layers.Activation("relu"))
        net.add(layers.Conv2D(8, 3, in_channels=0 if deferred else 8, prefix="conv2_"))
        net.add(layers.BatchNorm(in_channels=0 if deferred else 8, prefix="bn2_"))
        net.add(layers.Activation("relu"))
        net.add(layers.GlobalAvgPool2D())
        net.add(layers.Dense(6, in_units=0 if deferred else 8, prefix="fc_"))
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier(), ctx=contexts or [mx.cpu(0)])
    if dtype != "float32":
        net.cast(dtype)
    return net


def batch(seed, size=4):
    """Draw images."""
    values = np.random.default_rng(seed).standard_normal((size, 4, 8, 8)).astype(np.float32)
    images = mx.nd.empty(values.shape)
    images[:] = values
    return images


def backward(net, seed=0, size=4):
    """Compute gradients on noise, the batch shared out among the contexts."""
    contexts = net.collect_params().list_ctx()
    dtype = next(iter(net.collect_params().values())).dtype
    images = batch(seed, size).astype(dtype)
    parts = [images[i :: len(contexts)].as_in_context(context) for i, context in enumerate(contexts)]
    with mx.autograd.record():
        losses = [net(part).square().mean() for part in parts]
    mx.autograd.backward(losses)


def train(net, trainer, steps=1, seed=0, after=lambda: None):
    """Run whole training steps on noise."""
    for step in range(steps):
        backward(net, 1000 * seed + step)
        trainer.step(1)
        after()


def values(net, name, context=None):
    """Return a parameter's values, given the end of its name."""
    return parameter(net, name).data(context).asnumpy()


def parameter(net, name):
    """Return a parameter, given the end of its name."""
    return next(p for key, p in net.collect_params().items() if key.endswith(name))


def share(array):
    """Return the share of exact zeros."""
    array = array.asnumpy() if isinstance(array, mx.nd.NDArray) else array
    return float((array == 0).mean())


def native_states(trainer, index, number=0):
    """Return the arrays that a Trainer's optimizer remembers of a parameter."""
    from mopruning.backends.mxnet.states import SparseState, arrays_in

    store = trainer._kvstore._updater if trainer._update_on_kvstore else trainer._updaters[number]
    state = store.states[index]
    return list(arrays_in(state.native if isinstance(state, SparseState) else state))
