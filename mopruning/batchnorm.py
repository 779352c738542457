"""Which normalisation scale belongs to which weight, read off names and shapes."""

from __future__ import annotations

from mopruning.errors import RecipeError
from mopruning.plan import Plan


def scale_names(plan: Plan) -> dict[str, str]:
    """Pair every pruned weight with the scale (gamma) that multiplies its output channels.

    A pair that the recipe's `bn_scales` names is taken as it is. Otherwise it is the first vector declared after the
    weight that is as long as the weight has output channels and whose name ends in "weight" or "gamma".

    Raises:
        RecipeError: If a weight has no such vector, or a named one does not exist or has another length.
    """
    rows = list(plan.rows)
    shapes = {row.name: row.shape for row in rows}
    pairs: dict[str, str] = {}
    taken = set(plan.recipe.bn_scales.values())
    followers = plan.followers
    for row in (row for row in plan.pruned if row.name not in followers):
        outputs = row.shape[0]
        wanted = plan.recipe.bn_scales.get(row.name)
        if wanted is not None:
            if shapes.get(wanted) != (outputs,):
                raise RecipeError(
                    f"bn_scales: {row.name} has {outputs} output channels, {wanted!r} has shape {shapes.get(wanted)}"
                )
            pairs[row.name] = wanted
            continue
        after = rows[rows.index(row) + 1 :]
        found = next(
            (
                r.name
                for r in after
                if r.shape == (outputs,) and r.name.lower().endswith(("weight", "gamma")) and r.name not in taken
            ),
            None,
        )
        if found is None:
            raise RecipeError(
                f"score 'bn_scale': no normalisation of {outputs} channels follows {row.name}; name it in bn_scales, "
                "or leave the weight out with skip"
            )
        pairs[row.name] = found
        taken.add(found)
    return pairs
