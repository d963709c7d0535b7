"""The model card of an adapter folder: what it is, what it learnt from, how well it does, how to use it."""

from collections.abc import Sequence
from typing import Any

from ossicle import __version__


def card(name: str, manifest: dict[str, Any], labels: Sequence[str], *, notes: Sequence[str] = ()) -> str:
    """A model card as Markdown, from facts of the training only.

    Args:
        name: of the adapter.
        manifest: its `ossicle.json`.
        labels: its classes.
        notes: paragraphs put under the scores, such as how they were cross-validated.
    """
    kind = f"An Ossicle adapter that classifies sound into {len(labels)} classes"
    lines = [
        f"# {name}",
        "",
        f"{kind} on a frozen {manifest['backbone']['name']} encoder.",
        "",
        *_facts(manifest),
        "## Scores",
        "",
        *_scores(manifest.get("scores", {})),
        *[part for note in notes for part in (note, "")],
        "## Use",
        "",
        "```",
        f"ossicle predict {name} sounds/ --out labels.csv",
        "```",
        "",
        "The resolved settings are in `recipe.toml`; the same training again is",
        f"`ossicle train {manifest['task']} DATA --recipe recipe.toml --out DIR`.",
        "",
        "## Classes",
        "",
        ", ".join(labels),
        "",
    ]
    return "\n".join(lines)


def _facts(manifest: dict[str, Any]) -> list[str]:
    sizes, data, backbone = manifest["parameters"], manifest["data"], manifest["backbone"]
    trained = f"`{manifest['adapter']}`: {sizes['adapter']:,} parameters"
    facts = {
        "backbone": f"{backbone['name']}, {sizes['backbone']:,} parameters, weights {backbone['digest'][:16]}",
        "adapter": f"{trained} ({sizes['adapter'] / sizes['backbone']:.2%} of the backbone)",
        "head": f"{sizes['head']:,} parameters",
        "data": f"{data['name']}: {data['train']} clips to train, {data['val']} to validate, {data['test']} to test",
        "licences of the training clips": _counts(data["licences"]),
        "made with": f"ossicle {__version__}",
    }
    return ["| | |", "|---|---|", *[f"| {key} | {value} |" for key, value in facts.items()], ""]


def _counts(licences: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in licences.items())


def _scores(scores: dict[str, dict[str, float]]) -> list[str]:
    if not scores:
        return ["No clips were kept aside in this training, so it has no scores of its own.", ""]
    names = [name for name in next(iter(scores.values())) if name != "classes_absent"]
    rows = [f"| {part} | " + " | ".join(f"{values[n]:.3f}" for n in names) + " |" for part, values in scores.items()]
    return ["| clips | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|", *rows, ""]
