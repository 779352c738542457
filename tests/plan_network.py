"""Parameters of a small network by name, and what a recipe plans for them."""

SHAPES = {
    "conv1.weight": (64, 3, 3, 3),
    "conv1.bias": (64,),
    "bn1.weight": (64,),
    "bn1.bias": (64,),
    "conv2.weight": (128, 64, 3, 3),
    "conv3.weight": (256, 127, 1, 1),
    "fc.weight": (10, 1024),
    "fc.bias": (10,),
    "scale": (),
    "empty.weight": (0, 64),
}
WIDE = ["conv1.weight", "conv2.weight", "conv3.weight", "fc.weight"]


def by_name(recipe, shapes=SHAPES, frozen=()):
    return {row.name: row for row in recipe.plan(shapes, frozen).rows}
