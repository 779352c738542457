"""Networks of the zoo for the tests of the command line, pruned, in files."""

import numpy as np
import onnx_ir

from mopruning import mask
from mopruning.granularity import parse_granularity
from mopruning.ir import zoo
from mopruning.ir.parameters import parameters

NAMES = ("mnist_cnn", "lenet5", "resnet8_cifar")


def pruned(name, granularity="unstructured", sparsity=0.9):
    """A network of the zoo, pruned where the granularity fits, whose statistics and biases are not trivial."""
    model = zoo.build(name, seed=1)
    rng = np.random.default_rng(0)
    for own, value in model.graph.initializers.items():
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.ndim == 1:
            put(model, own, (array + rng.uniform(0.1, 0.5, array.shape)).astype(np.float32))
    for own, parameter in parameters(model).items():
        array = parameter.value.const_value.numpy()
        if parameter.role == "weight" and not parse_granularity(granularity).misfit(array.shape):
            put(model, own, np.where(mask(abs(array), granularity, sparsity), array, np.float32(0)))
    return model


def put(model, name, array):
    model.graph.initializers[name].const_value = onnx_ir.Tensor(array, name=name)


def arrays(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
