"""The harness of TensorFlow 1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning.backends import tensorflow1
from tests.backends.harness import LAYERS, Array, Case, Trainer

tf.get_logger().setLevel("ERROR")  # it speaks of every Saver

AXES = {"conv": (3, 2, 0, 1), "transposed": (2, 3, 0, 1), "dense": (1, 0), "vector": (0,)}
"""Kind of layer -> which axis of the variable each canonical axis is."""

REFERENCES = ("conv.bias", "hidden.weight")
"""Weights held in reference variables; the others are resource variables."""

CASES = (
    Case("GradientDescentOptimizerSparse", {"learning_rate": 0.1}),
    Case("GradientDescentOptimizerSparse", {"learning_rate": 0.1, "use_locking": True, "name": "descent"}),
    Case("MomentumOptimizerSparse", {"learning_rate": 0.1, "momentum": 0.9}),
    Case(
        "MomentumOptimizerSparse",
        {"learning_rate": 0.1, "momentum": 0.8, "use_nesterov": True, "use_locking": True, "name": "speed"},
    ),
    Case("AdamOptimizerSparse", {"learning_rate": 0.01}),
    Case(
        "AdamOptimizerSparse",
        {
            "learning_rate": 0.01,
            "beta1": 0.8,
            "beta2": 0.9,
            "epsilon": 1e-6,
            "use_locking": True,
            "use_own_namescope_for_non_slot_vars": True,
            "name": "a",
        },
    ),
    Case("RMSPropOptimizerSparse", {"learning_rate": 0.01}),
    Case(
        "RMSPropOptimizerSparse",
        {
            "learning_rate": 0.01,
            "decay": 0.8,
            "momentum": 0.9,
            "epsilon": 1e-6,
            "centered": True,
            "use_locking": True,
            "name": "r",
        },
    ),
    Case("AdagradOptimizerSparse", {"learning_rate": 0.1}),
    Case(
        "AdagradOptimizerSparse",
        {"learning_rate": 0.1, "initial_accumulator_value": 0.5, "use_locking": True, "name": "g"},
    ),
    Case("AdagradDAOptimizerSparse", {"learning_rate": 0.1, "global_step": True}),
    Case(
        "AdagradDAOptimizerSparse",
        {
            "learning_rate": 0.1,
            "global_step": True,
            "initial_gradient_squared_accumulator_value": 0.5,
            "l2_regularization_strength": 0.01,
            "use_locking": True,
            "name": "d",
        },
    ),
    Case("AdadeltaOptimizerSparse", {"learning_rate": 1.0}),
    Case(
        "AdadeltaOptimizerSparse",
        {"learning_rate": 1.0, "rho": 0.8, "epsilon": 1e-4, "use_locking": True, "name": "x"},
    ),
    Case("FtrlOptimizerSparse", {"learning_rate": 0.1}),
    Case(
        "FtrlOptimizerSparse",
        {
            "learning_rate": 0.1,
            "learning_rate_power": -0.7,
            "initial_accumulator_value": 0.5,
            "l2_regularization_strength": 0.01,
            "l2_shrinkage_regularization_strength": 0.01,
            "beta": 0.1,
            "accum_name": "n",
            "linear_name": "z",
            "use_locking": True,
            "name": "f",
        },
    ),
    Case("ProximalGradientDescentOptimizerSparse", {"learning_rate": 0.1}),
    Case(
        "ProximalGradientDescentOptimizerSparse",
        {"learning_rate": 0.1, "l2_regularization_strength": 0.01, "use_locking": True, "name": "p"},
    ),
    Case("ProximalAdagradOptimizerSparse", {"learning_rate": 0.1}),
    Case(
        "ProximalAdagradOptimizerSparse",
        {
            "learning_rate": 0.1,
            "initial_accumulator_value": 0.5,
            "l2_regularization_strength": 0.01,
            "use_locking": True,
            "name": "q",
        },
    ),
)


class Training:
    """A graph that holds layers and the operations of one optimizer; sessions over it train each for itself."""

    def __init__(self, cls: Any, options: Mapping[str, Any], axes: int | None) -> None:
        self.graph = tf.Graph()
        with self.graph.as_default():
            shapes = {n: (kind, shape) for n, (kind, shape) in LAYERS.items() if axes in (None, len(shape))}
            self.weights = {name: layer(name, kind, shape) for name, (kind, shape) in shapes.items()}
            self.gradients = {name: tf.placeholder(tf.float32, v.shape) for name, v in self.weights.items()}
            self.global_step = tf.train.create_global_step()
            given = {**options, **({"global_step": self.global_step} if "global_step" in options else {})}
            self.optimizer = cls(**given)
            pairs = [(self.gradients[name], variable) for name, variable in self.weights.items()]
            self.update = self.optimizer.apply_gradients(pairs, global_step=self.global_step)
            self.saver = tf.train.Saver(max_to_keep=1)
            self.variables = {variable.op.name: variable for variable in tf.global_variables()}
            self.initial = tf.global_variables_initializer()
            self.settings = {
                key: value for key, value in vars(self.optimizer).items() if isinstance(value, (int, float, str))
            }
        self.graph.finalize()


@cache
def training(cls: str, options: str, axes: int | None, recipe: str | None) -> Training:
    """Return the graph of one case, built once: text stands for the options and the recipe, None for no sparse one."""
    if recipe is None:
        return Training(getattr(tf.train, cls.removesuffix("Sparse")), json.loads(options), axes)
    sparse = getattr(tensorflow1, cls)
    return Training(lambda **given: sparse(recipe=json.loads(recipe) or None, **given), json.loads(options), axes)


def layer(name: str, kind: str, shape: tuple[int, ...]) -> Any:
    """Return a variable of a canonical shape, laid out for its kind of layer, which consumes it."""
    native = [shape[axis] for axis in np.argsort(AXES[kind])]
    variable = tf.get_variable(name, native, use_resource=name not in REFERENCES, initializer=tf.zeros_initializer())
    if kind == "conv":
        tf.nn.conv2d(tf.placeholder(tf.float32, [None, 8, 8, shape[1]]), variable, 1, "SAME")
    elif kind == "transposed":
        images = tf.placeholder(tf.float32, [2, 8, 8, shape[1]])
        tf.nn.conv2d_transpose(images, variable, [2, 16, 16, shape[0]], strides=2)
    elif kind == "dense":
        tf.matmul(tf.placeholder(tf.float32, [None, shape[1]]), variable)
    return variable


class Tensorflow1Trainer:
    """A session over the graph of one optimizer."""

    def __init__(self, built: Training, weights: Mapping[str, Array]) -> None:
        self.built = built
        self.session = tf.Session(graph=built.graph)
        fed = {built.weights[name].initializer.inputs[1]: self._native(name, v) for name, v in weights.items()}
        self.session.run(built.initial, fed)

    def step(self, gradients: Mapping[str, Array]) -> None:
        if isinstance(self.built.optimizer, tf.train.AdagradDAOptimizer):
            # It makes weights of the sums of gradients alone, and those of coarse ones are often exactly zero.
            gradients = {name: value + 2.0**-10 * (value != 0) for name, value in gradients.items()}
        fed = {self.built.gradients[name]: self._native(name, value) for name, value in gradients.items()}
        self.session.run(self.built.update, fed)

    def weights(self) -> dict[str, Array]:
        return {name: self._canonical(name, v) for name, v in self.session.run(self.built.weights).items()}

    def masks(self) -> dict[str, Array]:
        with self.session.as_default():
            pruner = getattr(self.built.optimizer, "pruner", None)
        return {name: np.array(mask) for name, mask in pruner.masks.items()} if pruner else {}

    def state(self) -> dict[str, list[Array]]:
        optimizer = self.built.optimizer
        slots = {
            name: [optimizer.get_slot(variable, slot) for slot in optimizer.get_slot_names()]
            for name, variable in self.built.weights.items()
        }
        values = self.session.run(slots)
        return {name: [self._canonical(name, v) for v in found] for name, found in values.items()}

    def everything(self) -> Any:
        values = self.session.run(self.built.variables)
        ours = {name: values.pop(name) for name in sorted(values) if name.startswith("mopruning/")}
        native = {"settings": self.built.settings, **{name: values[name] for name in sorted(values)}}
        return {**native, **({"mopruning": {k: plain(v) for k, v in ours.items()}} if ours else {})}

    def save(self, folder: Path) -> None:
        with self.built.graph.as_default():  # elsewhere a Saver takes itself to be eager
            self.built.saver.save(self.session, str(folder / "model.ckpt"), write_meta_graph=False)

    def load(self, folder: Path) -> None:
        with self.built.graph.as_default():
            self.built.saver.restore(self.session, str(folder / "model.ckpt"))

    def _native(self, name: str, value: Array) -> Array:
        return value.transpose(np.argsort(AXES[LAYERS[name][0]]))

    def _canonical(self, name: str, value: Array) -> Array:
        return value.transpose(AXES[LAYERS[name][0]])


class Tensorflow1Harness:
    """Builds trainers around the optimizers of `tf.compat.v1.train` and their sparse ones."""

    plain_sgd = Case("GradientDescentOptimizerSparse", {"learning_rate": 0.25})

    def native(self, case: Case, weights: Mapping[str, Array]) -> Trainer:
        return Tensorflow1Trainer(training(case.cls, json.dumps(dict(case.options)), case.axes, None), weights)

    def sparse(self, case: Case, weights: Mapping[str, Array], recipe: Mapping[str, Any]) -> Trainer:
        built = training(case.cls, json.dumps(dict(case.options)), case.axes, json.dumps(dict(recipe)))
        return Tensorflow1Trainer(built, weights)


HARNESS = Tensorflow1Harness()


def plain(value: Any) -> Any:
    """Return a fetched value as plain types where it is text."""
    return value.decode() if isinstance(value, bytes) else value
