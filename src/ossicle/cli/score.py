"""`ossicle score captions | retrieval | classify`: scores of files with a system's answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from ossicle import terminal
from ossicle.data import answers, manifest
from ossicle.data import captions as texts
from ossicle.errors import DataError, UsageError
from ossicle.files import write_atomic
from ossicle.metrics import classify as classes
from ossicle.metrics import retrieve
from ossicle.metrics.caption import score as caption
from ossicle.metrics.caption.pairs import named
from ossicle.metrics.compare import LEAST, interval, paired_bootstrap

PROTOCOL = (
    "text to audio: every caption is a query over all clips; audio to text: every clip is a query over all captions and"
    " the best rank of its own counts; a tie counts against the system; mAP@10 over all captions of a clip, sorted"
)
CAPTIONS_PER_CLIP = 5
score = typer.Typer(help="Score answers.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@score.callback()
def _group() -> None:
    """Score files with a system's answers."""


@score.command("captions")
def captions(
    references: Annotated[Path, typer.Option(help="csv (Clotho, AudioCaps), json or jsonl with the references.")],
    candidates: Annotated[
        Path | None, typer.Option(help="csv, json or jsonl with one caption per id; may be the same file.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Another system's captions, compared item by item.")] = None,
    human: Annotated[bool, typer.Option(help="Score the references against each other instead.")] = False,
    metrics: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated or joined by commas.")] = None,
    sbert: Annotated[
        str | None, typer.Option(help="Sentence model of sbert_sim; all-minilm-l6-v2 if not given.")
    ] = None,
    spice: Annotated[Path | None, typer.Option(help="Folder with spice-1.0.jar and lib.")] = None,
    items: Annotated[Path | None, typer.Option(help="Also write each item's scores: .jsonl.")] = None,
    as_json: Json = False,
) -> None:
    """Score captions against references; a metric that cannot run is named."""
    if human == (candidates is not None):
        raise UsageError("give either --candidates or --human")
    names = [name.strip() for text in metrics or [] for name in text.split(",")]
    _check_use(names, sbert, spice, items)
    known = texts.references(references)
    sides, left_out = _sides([path for path in (candidates, against) if path is not None], known)
    some = {name: own for name, own in known.items() if name not in left_out}
    options: dict[str, Any] = {"spice": spice} if sbert is None else {"spice": spice, "sbert": sbert}
    found = caption.human(some, names, **options) if human else _scored(sides[0], some, names, options)
    left_out |= found.left_out
    result: dict[str, Any] = {"items": len(found.items), "left_out": left_out, "scores": found.corpus}
    result |= {"intervals": _intervals(found), "vocabulary": found.vocabulary, "absent": found.absent}
    result["notes"] = [*_notes(found, {} if human else sides[0]), *found.notes]
    if against is not None:
        result["against"] = _compare(found, _scored(sides[-1], some, names, options))
    if items is not None:
        text = "".join(json.dumps({"id": n, **row}, ensure_ascii=False) + "\n" for n, row in found.items.items())
        write_atomic(items, lambda part: part.write_text(text, encoding="utf-8"))
    if not as_json:
        _count(len(found.items), "item", left_out)
    _tell(result, as_json)


def _check_use(names: Sequence[str], sbert: str | None, spice: Path | None, items: Path | None) -> None:
    """Refuse what would do nothing with the metrics that were chosen, and a file of items of another kind."""
    users = {"--sbert": (sbert, ("sbert_sim",)), "--spice": (spice, ("spice", "spider", "spider_fl"))}
    for option, (value, those) in users.items():
        if value is not None and names and not set(names) & set(those):
            raise UsageError(f"{option} is for {', '.join(those)}, which --metrics leaves out; give one of the two")
    if items is not None and items.suffix != ".jsonl":
        raise UsageError(f"--items {items} would hold JSON lines; give a name that ends in .jsonl")


class _Row(NamedTuple):
    """What a file has on one item: a caption or an error, and what was heard if it says so."""

    text: str
    error: str = ""
    tags: Sequence[tuple[str, float]] = ()


def _scored(
    rows: Mapping[str, _Row], known: Mapping[str, Sequence[str]], names: Sequence[str], options: Mapping[str, Any]
) -> caption.CaptionScores:
    tags = {name: row.tags for name, row in rows.items()}
    return caption.score({name: row.text for name, row in rows.items()}, known, names, tags=tags, **options)


def _sides(files: Sequence[Path], known: Mapping[str, Any]) -> tuple[list[dict[str, _Row]], dict[str, str]]:
    """Each file's captions under the ids of the references, and what is left out of all since one file has an error.

    Raises:
        DataError: naming the file that does not go with the references.
    """
    found: list[dict[str, _Row]] = []
    for path in files:
        said = texts.candidates(path)
        rows = {name: _Row(text, tags=said.tags.get(name, ())) for name, text in said.captions.items()}
        rows |= {name: _Row("", f"{path.name} has an error: {error}") for name, error in said.failed.items()}
        try:
            found.append(named(rows, known))
        except DataError as error:
            raise DataError(f"{path.name}: {error}") from None
    left_out = {name: row.error for rows in found for name, row in rows.items() if row.error}
    if left_out and len(left_out) == len(known):
        raise DataError(f"no item is left: all {len(known)} have an error in one file or another; write captions anew")
    return [{name: row for name, row in rows.items() if name not in left_out} for rows in found], left_out


def _notes(found: caption.CaptionScores, said: Mapping[str, _Row]) -> list[str]:
    """What a reader of the scores should know."""
    empty = sum(not row.text.strip() for row in said.values())
    notes = [f"{empty} of {len(said)} captions are empty; an empty caption scores 0"] if empty else []
    longest = int(found.vocabulary["length_max"])
    short = [key for key in found.corpus if key.startswith("bleu_") and int(key[5:]) > longest]
    if short:
        notes.append(f"no caption has more than {longest} word(s), so {', '.join(short)} mean nothing here")
    return [*notes, "one item has no interval, and cannot be compared"] if len(found.items) < LEAST else notes


def _column(found: caption.CaptionScores, key: str) -> np.ndarray[Any, Any]:
    return np.array([row[key] for row in found.items.values()])


def _intervals(found: caption.CaptionScores) -> dict[str, list[float]]:
    """95 % intervals of the mean over items; scores of a corpus that are no such means have none."""
    no_means = ("bleu", "meteor", "invented")
    means = [key for key in found.corpus if not key.startswith(no_means) and len(found.items) >= LEAST]
    return {key: list(interval(_column(found, key), rounds=2000)) for key in means}


def _compare(first: caption.CaptionScores, second: caption.CaptionScores) -> dict[str, dict[str, float]]:
    """Paired bootstrap of each item score that both have; files may list their items in any order."""
    found = {}
    for key in first.corpus:
        rows = [(row, second.items[name]) for name, row in first.items.items()]
        both = [(own[key], other[key]) for own, other in rows if key in own and key in other]
        if len(both) >= LEAST:
            found[key] = vars(paired_bootstrap(*np.array(both).T))
    return found


def _count(scored: int, what: str, left_out: Mapping[str, str]) -> None:
    """Say how many there are scores of, and which are left out and why."""
    told = f"{scored} {what}{'' if scored == 1 else 's'} scored"
    if left_out:
        shown = manifest.shorten([f"{name} ({reason})" for name, reason in left_out.items()])
        told += f", {len(left_out)} of {scored + len(left_out)} left out: {shown}"
    terminal.say(told)


def _tell(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    rows = []
    for key, value in result["scores"].items():
        low, high = result.get("intervals", {}).get(key, (None, None))
        other = result.get("against", {}).get(key)
        span = "" if low is None else f"{low:.4f} to {high:.4f}"
        told = f"{other['difference']:+.4f} (p {other['p']:.4f})" if other else ""
        rows.append((key, f"{value:.4f}", span, told))
    terminal.table(("score", "value", "95 %", "difference"), rows, right=("value",))
    for key, value in result.get("vocabulary", {}).items():
        terminal.say(f"{key}: {value:.4g}")
    if "protocol" in result:
        terminal.prose(result["protocol"])
    reasons: dict[str, list[str]] = {}
    for name, reason in result.get("absent", {}).items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        terminal.say(f"not run: {', '.join(names)}: {reason}")
    for note in result.get("notes", []):
        terminal.say(f"note: {note}")


@score.command("retrieval")
def retrieval(
    similarity: Annotated[Path, typer.Argument(help="A .npy file (captions, clips) of similarities.")],
    captions_per_clip: Annotated[
        int | None, typer.Option(min=1, help="Captions of a clip, one after another; 5 if not given.")
    ] = None,
    owners: Annotated[Path | None, typer.Option(help="A .npy file with the clip of each caption instead.")] = None,
    as_json: Json = False,
) -> None:
    """Score retrieval in both directions."""
    if owners is not None and captions_per_clip is not None:
        raise UsageError("--owners says what --captions-per-clip says; give one of them")
    scores = _array(similarity)
    each = CAPTIONS_PER_CLIP if captions_per_clip is None else captions_per_clip
    own = np.repeat(np.arange(scores.shape[-1]), each) if owners is None else _array(owners)
    if not np.issubdtype(own.dtype, np.integer):
        raise DataError(f"{owners} holds {own.dtype}; wanted the number of each caption's clip, whole numbers from 0")
    _tell({"scores": retrieve.summary(retrieve.ranks(scores, own)), "protocol": PROTOCOL}, as_json)


def _array(path: Path) -> np.ndarray[Any, Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = str(error).partition(". ")[0]
        raise DataError(f"{path} is no .npy file of numbers: {reason}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path} is no .npy file of numbers: it holds several arrays; save one")
    return array


@score.command("classify")
def classify(
    predictions: Annotated[Path, typer.Argument(help="What `ossicle predict` wrote: .csv, .jsonl or .parquet.")],
    truth: Annotated[Path, typer.Argument(help="A table with file_name and label.")],
    as_json: Json = False,
) -> None:
    """Score predicted classes: accuracy, top 5, macro mAP and F1, calibration, and a table of the classes.

    A file with several rows has their mean; files that could not be read are counted and left out.
    """
    labels = answers.labels(truth)
    found = answers.predicted(predictions, labels)
    names = sorted({label for scores in found.scores.values() for label in scores})
    unknown = sorted({labels[name] for name in found.scores} - set(names))
    if unknown:
        raise DataError(f"{truth.name} has classes that were not predicted: {manifest.shorten(unknown)}")
    probs = np.array([[scores.get(label, 0.0) for label in names] for scores in found.scores.values()])
    wanted = np.array([names.index(labels[name]) for name in found.scores])
    scores = classes.summary(probs, wanted, names, False)
    scores["calibration_error"] = classes.calibration_error(probs, wanted)
    scores |= {"files": len(found.scores), "failed": len(found.failed)}
    matrix = classes.confusion(wanted, probs.argmax(axis=1), len(names))
    table = [vars(row) for row in classes.per_class(matrix, names)]
    if not as_json:
        _count(len(found.scores), "file", found.failed)
    _tell({"scores": scores, "left_out": found.failed, "classes": table, "notes": found.notes}, as_json)
    if not as_json:
        shown = ("precision", "recall", "f1")
        rows = [(one["label"], *(f"{one[k]:.3f}" for k in shown), str(one["support"])) for one in table]
        terminal.table(("class", *shown, "clips"), rows, right=(*shown, "clips"))
