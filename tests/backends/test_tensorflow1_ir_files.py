"""TensorFlow's files: plain TensorFlow loads what is written; what is read computes the same, or is refused."""

from __future__ import annotations

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow")
pytest.importorskip("onnxruntime")

import tensorflow.compat.v1 as tf  # noqa: E402

from mopruning import cli  # noqa: E402
from mopruning.backends.tensorflow1 import files  # noqa: E402
from mopruning.backends.tensorflow1.reader import to_ir  # noqa: E402
from mopruning.errors import FormatError  # noqa: E402
from mopruning.ir.mopir import load  # noqa: E402
from mopruning.ir.validation import UnsupportedOperators  # noqa: E402
from tests.backends.tensorflow1_ir_networks import (  # noqa: E402
    distance,
    images,
    outputs_of,
    pruned,
    summary,
    weights,
)
from tests.ir.small_models import run  # noqa: E402

NET = pruned("resnet8_cifar")
X = images(NET)
NHWC = np.transpose(X, (0, 2, 3, 1))
EXPECTED = outputs_of(NET, X)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One network in all three formats."""
    folder = tmp_path_factory.mktemp("written")
    files.write_frozen(NET, folder / "net.pb")
    files.write_meta(NET, folder / "net.meta")
    files.write_saved_model(NET, folder / "saved")
    return folder


@pytest.mark.parametrize("kind", ["frozen", "meta", "saved"])
def test_what_is_written_is_read(written, kind):
    path = {"frozen": "net.pb", "meta": "net.meta", "saved": "saved"}[kind]
    reader = {"frozen": files.read_frozen, "meta": files.read_meta, "saved": files.read_saved_model}[kind]
    back = reader(written / path)
    assert weights(back) == weights(NET)
    assert summary(back) == summary(NET)
    assert distance(outputs_of(back, X), EXPECTED) < 1e-6


def test_plain_tensorflow_loads_what_is_written(written):
    with tf.Graph().as_default() as graph:
        definition = tf.GraphDef.FromString((written / "net.pb").read_bytes())
        tf.import_graph_def(definition, name="")
        with tf.Session() as session:
            assert distance(session.run(["output:0"], {"input:0": NHWC}), EXPECTED) < 2e-6
        assert not any(node.op in ("VarHandleOp", "Switch", "RandomUniform") for node in graph.as_graph_def().node)
    with tf.Graph().as_default(), tf.Session() as session:
        saver = tf.train.import_meta_graph(str(written / "net.meta"))
        saver.restore(session, str(written / "net"))
        assert distance(session.run(["output:0"], {"input:0": NHWC}), EXPECTED) < 2e-6
        assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == 2 * sum(
            node.op_type == "BatchNormalization" for node in NET.graph
        )
    with tf.Graph().as_default(), tf.Session() as session:
        meta = tf.saved_model.load(session, ["serve"], str(written / "saved"))
        signature = meta.signature_def["serving_default"]
        feeds = {signature.inputs["input"].name: NHWC}
        assert distance(session.run([signature.outputs["output"].name], feeds), EXPECTED) < 2e-6


def variable(name, shape, random, *, positive=False, resource=False):
    values = random.standard_normal(shape) * 0.3
    values = np.abs(values) + 0.5 if positive else values
    start = tf.constant_initializer(values.astype(np.float32))
    return tf.get_variable(name, shape, initializer=start, use_resource=resource)


def old_norm(x, name, training, random, operation, resource):
    """Batch normalisation as tf.layers of TensorFlow 1 spells it."""
    with tf.variable_scope(name):
        channels = x.shape.as_list()[-1]
        parts = [
            variable(part, [channels], random, positive=part == "moving_variance", resource=resource)
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        ]

        def trained():
            return operation(
                x=x, scale=parts[0], offset=parts[1], mean=[], variance=[], epsilon=0.001, is_training=True
            )[:3]

        def settled():
            names = ("scale", "offset", "mean", "variance")
            given = dict(zip(names, parts, strict=True))
            return operation(x=x, epsilon=0.001, is_training=False, **given)[0], parts[2], parts[3]

        y, mean, deviation = tf.cond(training, trained, settled)
        momentum = tf.cond(training, lambda: tf.constant(0.97), lambda: tf.constant(1.0))
        for old, new in ((parts[2], mean), (parts[3], deviation)):
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.assign_sub(old, (old - new) * (1 - momentum)))
        return y


def old_dropout(x, keep):
    """Dropout as TensorFlow 1.12 spells it."""
    return tf.realdiv(x, keep) * tf.floor(keep + tf.random_uniform(tf.shape(x)))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A checkpoint with a graph as programs for TensorFlow 1 build them, and what it computes."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("old") / "model"
    before = tf.control_flow_v2_enabled()
    tf.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), tf.Session() as session:
            training = tf.placeholder(tf.bool, [], name="is_training")
            keep = tf.placeholder(tf.float32, [], name="keep_prob")
            images_in = tf.placeholder(tf.float32, [None, 17, 15, 3], name="images")
            h = tf.pad(images_in, [[0, 0], [2, 3], [2, 3], [0, 0]])
            h = tf.nn.conv2d(h, variable("conv1/weights", [5, 5, 3, 8], random), 2, "VALID")
            h = tf.nn.relu(old_norm(h, "bn1", training, random, tf.raw_ops.FusedBatchNorm, False))
            h = tf.nn.conv2d(h, variable("conv2/weights", [3, 3, 8, 12], random, resource=True), 2, "SAME")
            h = tf.nn.bias_add(h, variable("conv2/biases", [12], random))
            h = tf.nn.relu6(old_norm(h, "bn2", training, random, tf.raw_ops.FusedBatchNormV3, True))
            h = tf.nn.depthwise_conv2d(h, variable("dw/k", [3, 3, 12, 2], random), [1] * 4, "SAME", rate=[2, 2])
            mean, offset, scale = (variable(f"bn3/{name}", [24], random) for name in ("mean", "beta", "gamma"))
            spread = variable("bn3/variance", [24], random, positive=True)
            h = tf.nn.elu(tf.nn.batch_normalization(h, mean, spread, offset, scale, 1e-3))
            h = tf.concat([h + variable("position", [1, 1, 1, 24], random), tf.nn.avg_pool(h, 3, 1, "SAME")], 3)
            h = tf.nn.max_pool(h, 3, 2, "SAME")
            flat = tf.reshape(h, [tf.shape(h)[0], int(np.prod(h.shape.as_list()[1:]))])
            flat = tf.cond(training, lambda: old_dropout(flat, 0.7), lambda: tf.identity(flat))
            flat = old_dropout(flat, keep)
            kernel = variable("fc/weights", [flat.shape.as_list()[1], 5], random)
            probs = tf.nn.softmax(tf.matmul(flat, kernel) + variable("fc/biases", [5], random), name="probs")
            tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.square(probs)))
            session.run(tf.global_variables_initializer())
            tf.train.Saver().save(session, str(path))
            x = random.standard_normal((2, 17, 15, 3)).astype(np.float32)
            expected = session.run(probs, {images_in: x, training: False, keep: 1.0})
            live = to_ir(session, outputs=["probs:0"])
    finally:
        if before:
            tf.enable_control_flow_v2()
    return f"{path}.meta", x, expected, live


def test_graphs_of_old_programs(old):
    path, x, expected, live = old
    for net in (files.read_meta(path, outputs=["probs"]), live):
        assert distance(run(net, {"images": np.transpose(x, (0, 3, 1, 2))}), [expected]) < 1e-5
        kinds = [node.op_type for node in net.graph]
        assert "Transpose" not in kinds
        assert kinds.count("Conv") == 3
        assert kinds.count("Dropout") == 2
        assert kinds.count("BatchNormalization") == 3
        norms = [node for node in net.graph if node.op_type == "BatchNormalization"]
        assert [round(node.attributes["momentum"].value, 5) for node in norms] == [0.97, 0.97, 0.99]
        ratios = [
            net.graph.initializers[n.inputs[1].name].const_value.numpy() for n in net.graph if n.op_type == "Dropout"
        ]
        np.testing.assert_allclose(ratios, [0.3, 0.5], rtol=1e-6)  # what is fed cannot be known
        assert {"conv1/weights", "conv2/biases", "dw/k", "fc/weights", "bn2/moving_mean"} <= set(net.graph.initializers)


def test_functions_of_tensorflow_2_are_looked_through(tmp_path):
    random = np.random.default_rng(1)
    module = tensorflow.Module()
    module.kernel = tensorflow.Variable(random.standard_normal((3, 3, 3, 4)).astype(np.float32), name="conv/kernel")
    module.dense = tensorflow.Variable(random.standard_normal((64, 5)).astype(np.float32), name="fc/kernel")
    inner = tensorflow.function(lambda y: tensorflow.nn.relu(tensorflow.nn.conv2d(y, module.kernel, 1, "SAME")))

    def call(image):
        features = inner(image)
        return {"features": features, "out": tensorflow.matmul(tensorflow.reshape(features, [-1, 64]), module.dense)}

    specification = tensorflow.TensorSpec([None, 4, 4, 3], tensorflow.float32, name="image")
    module.call = tensorflow.function(call, input_signature=[specification])
    tensorflow.saved_model.save(module, str(tmp_path), signatures=module.call)
    net = files.read_saved_model(tmp_path)
    assert set(net.graph.initializers) >= {"conv/kernel", "fc/kernel"}
    x = random.standard_normal((2, 4, 4, 3)).astype(np.float32)
    actual = dict(
        zip(
            (value.name for value in net.graph.outputs),
            run(net, {"image": np.transpose(x, (0, 3, 1, 2))}),
            strict=True,
        )
    )
    expected = {name: value.numpy() for name, value in module.call(x).items()}
    assert distance([actual["out"]], [expected["out"]]) < 1e-6
    assert distance([np.transpose(actual["features"], (0, 2, 3, 1))], [expected["features"]]) < 1e-6


def test_outputs_of_a_graph_that_trains_must_be_named(old):
    with pytest.raises(FormatError, match="Name them by outputs="):
        files.read_meta(old[0])


def test_the_command_line_names_them(old, tmp_path, capsys):
    target = tmp_path / "net.mopir"
    sizes = ("--input-shape", "2,3,17,15")

    def convert(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["convert", *map(str, arguments), *sizes])
        return ended.value.code or 0, capsys.readouterr()

    code, said = convert(old[0], target)
    assert code == 2
    assert "convert: --outputs" in said.err
    code, said = convert(old[0], target, "--outputs", "probs:0")
    assert (code, said.err) == (0, "")
    assert distance(run(load(target), {"images": np.transpose(old[1], (0, 3, 1, 2))}), [old[2]]) < 1e-6
    code, said = convert(target, tmp_path / "net.onnx", "--outputs", "probs:0")
    assert code == 2
    assert "mopir says itself what its outputs are" in said.err


def frozen(build):
    with tf.Graph().as_default() as graph:
        build()
        return graph.as_graph_def()


def test_all_unknown_operations_are_listed(tmp_path):
    def build():
        x = tf.placeholder(tf.float32, [None, 4], name="x")
        y = tf.py_func(lambda value: value, [x], tf.float32, name="python")
        y.set_shape([None, 4])
        tf.identity(tf.math.lgamma(y, name="gamma"), name="y")

    (tmp_path / "net.pb").write_bytes(frozen(build).SerializeToString())
    with pytest.raises(UnsupportedOperators) as caught:
        files.read_frozen(tmp_path / "net.pb")
    assert [(one.node, one.operator) for one in caught.value.problems] == [("python", "PyFunc"), ("gamma", "Lgamma")]
    assert "runs Python code" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no nodes"),
        (b"\x00\xff not a graph", "is no GraphDef"),
        (tf.GraphDef(node=[tf.NodeDef(name="y", op="Relu", input=["x"])]).SerializeToString(), "given by no node"),
        (tf.GraphDef(node=[tf.NodeDef(name="y", op="Relu", input=["y"])]).SerializeToString(), "outputs"),
    ],
)
def test_damaged_graphs(tmp_path, content, match):
    (tmp_path / "net.pb").write_bytes(content)
    with pytest.raises(FormatError, match=match):
        files.read_frozen(tmp_path / "net.pb", outputs=["y"] if b"x" in content else None)


def test_constants_that_do_not_fit_their_shape(tmp_path):
    def build():
        x = tf.placeholder(tf.float32, [None, 64], name="x")
        tf.matmul(x, tf.constant(np.ones((64, 32), np.float32), name="w"), name="y")

    definition = frozen(build)
    (weight,) = (node for node in definition.node if node.name == "w")
    for sizes, match in (([1 << 40, 1 << 20], "takes more than"), ([64, 33], "do not hold the shape")):
        for axis, size in zip(weight.attr["value"].tensor.tensor_shape.dim, sizes, strict=True):
            axis.size = size
        (tmp_path / "net.pb").write_bytes(definition.SerializeToString())
        with pytest.raises(FormatError, match=match):
            files.read_frozen(tmp_path / "net.pb")


def test_checkpoints_without_their_weights(written, tmp_path):
    (tmp_path / "net.meta").write_bytes((written / "net.meta").read_bytes())
    with pytest.raises(FormatError, match="belongs beside it"):
        files.read_meta(tmp_path / "net.meta")
    (tmp_path / "net.index").write_bytes(b"nonsense" * 20)
    with pytest.raises(FormatError, match="is no checkpoint"):
        files.read_meta(tmp_path / "net.meta")


def test_saved_models_replace_no_other_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    with pytest.raises(FormatError, match="something else"):
        files.write_saved_model(NET, tmp_path / "mine")
    assert (tmp_path / "mine" / "note.txt").read_text() == "keep"
