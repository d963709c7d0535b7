"""Changes to the recipe of an adapter that is trained: only those that change what comes out are taken."""

from collections.abc import Sequence

from ossicle.errors import UsageError
from ossicle.recipe import config
from ossicle.recipe.config import Recipe
from ossicle.tasks.decode import OWN

# All other settings are of the training, or settled by the weights.
LIVE: dict[str, tuple[str, ...]] = {
    "classify": ("task.multi_label", "task.loss", "task.layers", "task.pooling"),
    "caption-llm": (
        *("task.llm", "task.llm_bits", "task.prompt", "task.prompt_form", "task.layers", "task.squeeze"),
        *("task.activation", "task.decoding", "task.metrics", "train.precision"),
    ),
    "caption-tags": (
        *("backbone.name", "task.instead", "task.llm", "task.prompt", "task.prompt_form", "task.most", "task.least"),
        *("task.decoding", "task.metrics", "train.precision"),
    ),
}
ALL = (
    *("data.channel", "task.window_s", "task.shortest_s", "backbone.weights", "backbone.source", "backbone.stride"),
    *("backbone.frontend", "backbone.frames", "backbone.statistics", "backbone.positions"),
)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe of a trained adapter with "task.window_s=5" texts applied.

    Raises:
        RecipeError: with every key or value that is wrong.
        UsageError: for a setting that would do nothing.
    """
    if not changes:
        return recipe
    found = config.changed(recipe, changes)
    live = (*ALL, *LIVE[recipe.task.kind])
    for key in (change.partition("=")[0].strip() for change in changes):
        if not any(key == one or key.startswith(f"{one}.") for one in live):
            raise UsageError(
                f"--set {key} does nothing, since the adapter is trained; what can be set here is {', '.join(live)}"
            )
        if key.startswith("task.decoding."):
            _decoding(key.removeprefix("task.decoding."), found)
    return found


def _decoding(key: str, recipe: Recipe) -> None:
    """See that a setting of the decoding is one of the method's."""
    how = recipe.task.decoding  # type: ignore[union-attr]
    users = [method for method, own in OWN.items() if key in own]
    if users and how.method not in users:
        raise UsageError(f"{key} is of method={' or '.join(users)} and does nothing with {how.method}; set both")
    if key == "rerank" and how.candidates == 1:
        raise UsageError("rerank chooses among candidates and does nothing with one; set candidates too")
