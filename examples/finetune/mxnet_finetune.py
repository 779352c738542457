"""Fine-tune a network that is sparse already: `fix_sparsity` keeps its zeros, all else is as in any training.

The network arrives as a file from whatever framework it was pruned in.

    python examples/mnist/pytorch_pruning_simple.py
    python examples/finetune/mxnet_finetune.py --model mnist-sparse80.mopir --epochs 10 --lr 0.01
"""

from finetuning import load, parser
from mxnet_network import CONTEXT, predict, weights
from progress import Progress

from mopruning.backends.mxnet import SGDSparse, from_ir, to_ir

# isort: split
import mxnet as mx
from mxnet import autograd, gluon


def main() -> None:
    options = parser(__doc__, out="finetuned-mxnet-symbol.json").parse_args()
    mx.random.seed(options.seed)
    task = load(options)
    data = task.data
    net = from_ir(task.model)
    net.collect_params().reset_ctx(CONTEXT)
    net.hybridize()
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()

    updates = options.epochs * data.updates(options.batch_size)
    scheduler = mx.lr_scheduler.CosineScheduler(updates, options.lr)
    # optimizer = mx.optimizer.SGD(momentum=0.9, learning_rate=options.lr, wd=5e-4, lr_scheduler=scheduler)
    optimizer = SGDSparse(
        momentum=0.9,
        learning_rate=options.lr,
        wd=5e-4,
        lr_scheduler=scheduler,
        fix_sparsity=True,
        param_name=net,
    )
    trainer = gluon.Trainer(net.collect_params(), optimizer)
    progress = Progress(
        options, data, optimizer.plan, lambda images: predict(net, images), lambda: weights(net), every=1
    )

    progress.start(loaded=True)
    for epoch in range(1, options.epochs + 1):
        losses = []
        for images, labels in data.batches(options.batch_size, options.seed, epoch):
            with autograd.record():
                loss = loss_of(net(mx.nd.array(images, CONTEXT)), mx.nd.array(labels, CONTEXT))
            loss.backward()
            trainer.step(len(labels))
            losses.append(loss.mean().asscalar())
        progress.epoch(epoch, losses)
    task.finish(to_ir(net, mx.nd.zeros(task.shape, CONTEXT)), options.out)


if __name__ == "__main__":
    main()
