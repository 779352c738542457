"""The network of the published scripts, and what a recipe makes of it."""

# The network of the published MNIST scripts, with the 127-channel convolution of their newer versions.
NET = {
    "conv1.weight": (64, 1, 3, 3),
    "conv1.bias": (64,),
    "bn1.weight": (64,),
    "bn1.bias": (64,),
    "conv2.weight": (127, 64, 3, 3),
    "conv2.bias": (127,),
    "bn2.weight": (127,),
    "bn2.bias": (127,),
    "conv3.weight": (256, 127, 3, 3),
    "conv3.bias": (256,),
    "fc.weight": (10, 1024),
    "fc.bias": (10,),
}


def by_name(recipe, shapes=NET):
    return {row.name: row for row in recipe.plan(shapes).rows}


def targets(recipe, shapes=NET):
    return {row.name: row.target for row in recipe.plan(shapes).pruned}
