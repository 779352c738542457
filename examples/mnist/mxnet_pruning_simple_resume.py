"""Go on from a sparse network: the ramp starts at the sparsity its weights have and rises to 95%.

Four fifths of the epochs prune, the rest fine-tune at the target. Nothing but the weights is loaded: the masks are
read off their zeros.

    python examples/mnist/mxnet_pruning_simple.py
    python examples/mnist/mxnet_pruning_simple_resume.py
"""

from data import load
from mxnet_network import CONTEXT, network, predict, weights
from options import parser
from progress import Progress

from mopruning.backends.mxnet import SGDSparse

# isort: split
import mxnet as mx
from mxnet import autograd, gluon


def main() -> None:
    wanted = parser(__doc__, epochs=50, batch_size=1000, sparsity=0.95, out="mnist-sparse95.params")
    wanted.add_argument("--weights", default="mnist-sparse80.params", help="the sparse network to go on from")
    options = wanted.parse_args()
    mx.random.seed(options.seed)
    digits = load(options.data)
    net = network()
    net.load_parameters(options.weights, CONTEXT)
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()

    step = digits.updates(options.batch_size)  # in an epoch
    rate = 0.1 * options.batch_size / 256
    optimizer = SGDSparse(
        learning_rate=rate,
        wd=1e-5,
        lr_scheduler=mx.lr_scheduler.CosineScheduler(options.epochs * step, rate),
        target_sparsity=options.sparsity,
        sparse_step=options.epochs * 4 // 5 * step,
        frequency=step / 5,
        special_sparsity_dict={"conv1_weight": 0.0},
        restore_sparsity=True,
        # To fine-tune at the sparsity that is there: also fix_sparsity=True, and no target.
        param_name=net,
    )
    trainer = gluon.Trainer(net.collect_params(), optimizer)
    progress = Progress(options, digits, optimizer.plan, lambda images: predict(net, images), lambda: weights(net))

    progress.start(loaded=True)
    for epoch in range(1, options.epochs + 1):
        for images, labels in digits.batches(options.batch_size, options.seed, epoch):
            with autograd.record():
                loss = loss_of(net(mx.nd.array(images, CONTEXT)), mx.nd.array(labels, CONTEXT))
            loss.backward()
            trainer.step(len(labels))
        progress.epoch(epoch)
    net.save_parameters(options.out)
    progress.end()


if __name__ == "__main__":
    main()
