"""What differs from one kind of task to the next when it is built, trained and saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ossicle.contracts import Clip, Prediction, Task
from ossicle.recipe.config import Recipe
from ossicle.recipe.partition import Split


class Plan(Protocol):
    """How a recipe becomes a task of one kind."""

    recipe: Recipe

    @classmethod
    def learn(cls, recipe: Recipe, parts: Split, begun: Path | None = None) -> "Plan":
        """The plan for training clips; raises DataError if they cannot be learnt from.

        Args:
            recipe: checked settings.
            parts: the clips.
            begun: the folder that has the weights to begin with; None begins with fresh ones.
        """
        ...

    @classmethod
    def saved(cls, recipe: Recipe, folder: Path) -> "Plan":
        """The plan of a folder that was trained."""
        ...

    @classmethod
    def validates(cls, recipe: Recipe) -> bool:
        """Whether clips are held out to choose an epoch, where the recipe names none."""
        ...

    def texts(self) -> dict[str, str]:
        """File name to text of what is saved beside the recipe."""
        ...

    def task(self, *, for_training: bool) -> Task:
        """The task with a fresh adapter; of a saved folder, ready for its weights."""
        ...

    def begin(self, task: Any, folder: Path | None) -> None:
        """Begin with the weights of a trained folder, if one is given; raises UsageError if it must be."""
        ...

    def check(self, task: Any, manifest: dict[str, Any]) -> None:
        """See that a saved folder fits what it is loaded on; raises AdapterError if not."""
        ...

    def caches(self, task: Any) -> bool:
        """Give a task that will train its caches, now that its weights stand; whether clips must be cut for them."""
        ...

    def start(self, task: Any, clips: Sequence[Clip], out: Path) -> None:
        """What is done once before the first epoch."""
        ...

    def trains(self, task: Any) -> bool:
        """Whether anything is iterated after `start`."""
        ...

    def kept(self) -> dict[str, Any]:
        """What `start` found, for the manifest; under "scores", parts to their scores."""
        ...

    def facts(self, task: Any) -> dict[str, Any]:
        """What the manifest says of the task besides the rest."""
        ...

    def sizes(self, task: Any) -> dict[str, int]:
        """Trained parameters by part."""
        ...

    def judged(self, task: Any, clips: Sequence[Clip], rows: Sequence[Prediction], out: Path) -> list[dict[str, Any]]:
        """What was said of each scored clip; pictures of it go to `out`."""
        ...

    def card(self, name: str, manifest: dict[str, Any]) -> str:
        """The model card."""
        ...
