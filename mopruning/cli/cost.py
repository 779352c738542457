"""`mopruning cost`: multiply-accumulates and parameters of a network, dense and without its zeros."""

from __future__ import annotations

from mopruning.cli.options import From, InputShape, Json, NetworkFile


def cost(
    file: NetworkFile,
    input_shape: InputShape = None,
    json: Json = False,
    from_: From = None,
) -> None:
    """Count the multiply-accumulates and parameters of each layer of a network.

    Effective are the multiply-accumulates whose weight is not zero. A batch that is left open counts as 1.
    """
    from mopruning.cli.input_shapes import as_option, parse
    from mopruning.ir import passes
    from mopruning.model_files import read_model

    model = read_model(file, from_)
    shapes = parse(input_shape or [], model)
    try:
        report = passes.cost(model, shapes=shapes)
    except passes.ShapeError as error:
        raise passes.ShapeError(as_option(str(error))) from None
    if json:
        from json import dumps

        print(dumps({"file": str(file), **report.to_dict()}, indent=2))
        return
    from mopruning.cli.output import show

    show(report.table())
    macs, parameters = report.macs, report.parameters
    print(f"MACs: {macs:,}, effective {report.effective_macs:,} ({report.effective_macs / max(1, macs):.4f})")
    print(f"parameters: {parameters:,}, non-zero {report.nonzeros:,} ({report.nonzeros / max(1, parameters):.4f})")
