"""The model card of an adapter folder: what it is, what it learnt from, how well it does, how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ossicle import __version__


def card(
    name: str,
    manifest: dict[str, Any],
    does: str,
    use: str,
    more: Mapping[str, str] | None = None,
    *,
    notes: Sequence[str] = (),
) -> str:
    """A model card as Markdown, from facts of the training only.

    Args:
        name: of the adapter.
        manifest: its `ossicle.json`.
        does: what it does, after "An Ossicle adapter that".
        use: an `ossicle` command, without that word.
        more: heading to text of sections at the end, such as its classes.
        notes: paragraphs put under the scores, such as how they were cross-validated.
    """
    lines = [
        f"# {name}",
        "",
        f"An Ossicle adapter that {does} on a frozen {manifest['backbone']['name']} encoder.",
        "",
        *_facts(manifest),
        "## Scores",
        "",
        *_scores(manifest.get("scores", {})),
        *[part for note in notes for part in (note, "")],
        "## Use",
        "",
        "```",
        f"ossicle {use}",
        "```",
        "",
        "The resolved settings are in `recipe.toml`; the same training again is",
        f"`ossicle train {manifest['task']} DATA --recipe recipe.toml{_begun(manifest)} --out DIR`.",
        "",
        *[line for heading, text in (more or {}).items() for line in (f"## {heading}", "", text, "")],
    ]
    return "\n".join(lines)


def _begun(manifest: dict[str, Any]) -> str:
    return f" --init-from {manifest['begun with']['name']}" if "begun with" in manifest else ""


def _facts(manifest: dict[str, Any]) -> list[str]:
    sizes, data, backbone = manifest["parameters"], manifest["data"], manifest["backbone"]
    trained = f"`{manifest['adapter']}`: {sizes['adapter']:,} parameters"
    language = manifest.get("language model")
    facts = {
        **({"language model": _writer(language)} if language else {}),
        "backbone": f"{backbone['name']}, {sizes['backbone']:,} parameters, weights {backbone['digest'][:16]}",
        **_origin(backbone),
        "adapter": f"{trained} ({sizes['adapter'] / sizes['backbone']:.2%} of the backbone)",
        **{part: f"{sizes[part]:,} parameters" for part in sizes if part not in ("adapter", "backbone")},
        **({"how the head was made": manifest["head"]["told"]} if "head" in manifest else {}),
        **({"weights kept": manifest["kept"]} if "kept" in manifest else {}),
        "data": f"{data['name']}: {data['train']} clips to train, {data['val']} to validate, {data['test']} to test",
        **({"left out": f"{len(bad)} files that could not be read"} if (bad := data.get("unreadable")) else {}),
        "licences of the training clips": _counts(data["licences"]),
        "made with": f"ossicle {__version__}",
    }
    return ["| | |", "|---|---|", *[f"| {key} | {value} |" for key, value in facts.items()], ""]


def _writer(language: dict[str, Any]) -> str:
    """A language model, and the weights it was given; one that was trained from nothing has none."""
    weights = f", weights {language['digest'][:16]}" if language["digest"] else ", trained from nothing"
    return f"{language['name']}{weights}"


def _origin(backbone: dict[str, Any]) -> dict[str, str]:
    """Where each encoder's weights came from, as `weights.provenance` says; folders of older versions do not know."""
    told = {}
    for name, came in backbone.get("encoders", {}).items():
        state = "" if came["verified"] else ", unverified: no known digest agreed with theirs"
        where = "a file of its own" if came["source"] == "path" else came["source"]
        told[f"weights of {name}"] = f"from {where}: {came['origin']}{state}"
    return told


def _counts(licences: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in licences.items())


def _scores(scores: dict[str, dict[str, float]]) -> list[str]:
    if not scores:
        return ["No clips were kept aside in this training, so it has no scores of its own.", ""]
    names = [name for name in next(iter(scores.values())) if name != "classes_absent"]
    rows = [f"| {part} | " + " | ".join(f"{values[n]:.3f}" for n in names) + " |" for part, values in scores.items()]
    return ["| clips | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|", *rows, ""]
