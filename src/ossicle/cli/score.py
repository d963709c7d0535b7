"""`ossicle score captions | retrieval | classify`: scores of files with a system's answers."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any

import numpy as np
import typer

from ossicle import terminal
from ossicle.data import captions as texts
from ossicle.data import manifest
from ossicle.errors import DataError, UsageError
from ossicle.metrics import classify as classes
from ossicle.metrics import retrieve
from ossicle.metrics.caption import score as caption
from ossicle.metrics.compare import interval, paired_bootstrap

PROTOCOL = (
    "text to audio: every caption is a query over all clips; audio to text: every clip is a query over all captions and"
    " the best rank of its own counts; a tie counts against the system; mAP@10 over all captions of a clip, sorted"
)
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
    sbert: Annotated[str, typer.Option(help="Sentence model of sbert_sim.")] = "all-minilm-l6-v2",
    spice: Annotated[Path | None, typer.Option(help="Folder with spice-1.0.jar and lib.")] = None,
    items: Annotated[Path | None, typer.Option(help="Also write each item's scores: .jsonl.")] = None,
    as_json: Json = False,
) -> None:
    """Score captions against references; a metric that cannot run is named."""
    if human == (candidates is not None):
        raise UsageError("give either --candidates or --human")
    known = texts.references(references)
    names = [name for text in metrics or [] for name in text.split(",")]
    options = {"sbert": sbert, "spice": spice}

    def run(path: Path) -> caption.CaptionScores:
        return caption.score(texts.candidates(path), known, names, **options)  # type: ignore[arg-type]

    found = caption.human(known, names, **options) if candidates is None else run(candidates)
    result: dict[str, Any] = {"items": len(found.items), "scores": found.corpus, "intervals": _intervals(found)}
    result |= {"vocabulary": found.vocabulary, "absent": found.absent}
    if against is not None:
        result["against"] = _compare(found, run(against))
    if items is not None:
        lines = [json.dumps({"id": name, **row}, ensure_ascii=False) for name, row in found.items.items()]
        items.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _tell(result, as_json)


def _column(found: caption.CaptionScores, key: str) -> np.ndarray[Any, Any]:
    return np.array([row[key] for row in found.items.values() if key in row])


def _intervals(found: caption.CaptionScores) -> dict[str, list[float]]:
    """95 % intervals of the mean over items; BLEU and METEOR of a corpus are no such means, so they have none."""
    means = [key for key in found.corpus if not key.startswith(("bleu", "meteor"))]
    return {key: list(interval(_column(found, key), rounds=2000)) for key in means}


def _compare(first: caption.CaptionScores, second: caption.CaptionScores) -> dict[str, dict[str, float]]:
    """Paired bootstrap of each item score; files may list their items in any order."""
    found = {}
    for key in first.corpus:
        both = [(row[key], second.items[name][key]) for name, row in first.items.items() if key in row]
        if key in second.corpus and both:
            found[key] = vars(paired_bootstrap(*np.array(both).T))
    return found


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


@score.command("retrieval")
def retrieval(
    similarity: Annotated[Path, typer.Argument(help="A .npy file (captions, clips) of similarities.")],
    captions_per_clip: Annotated[int, typer.Option(min=1, help="Captions of a clip, one after another.")] = 5,
    owners: Annotated[Path | None, typer.Option(help="A .npy file with the clip of each caption instead.")] = None,
    as_json: Json = False,
) -> None:
    """Score retrieval in both directions."""
    scores = _array(similarity)
    own = np.repeat(np.arange(scores.shape[-1]), captions_per_clip) if owners is None else _array(owners)
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
    labels = _labels(truth)
    found, failed = _predicted(predictions, labels)
    names = sorted(next(iter(found.values())))
    unknown = sorted({labels[name] for name in found} - set(names))
    if unknown:
        raise DataError(f"{truth.name} has classes that were not predicted: {manifest.shorten(unknown)}")
    probs = np.array([[scores[c] for c in names] for scores in found.values()])
    wanted = np.array([names.index(labels[name]) for name in found])
    scores = classes.summary(probs, wanted, names, False)
    scores["calibration_error"] = classes.calibration_error(probs, wanted)
    scores |= {"files": len(found), "failed": failed}
    matrix = classes.confusion(wanted, probs.argmax(axis=1), len(names))
    table = [vars(row) for row in classes.per_class(matrix, names)]
    _tell({"scores": scores, "classes": table}, as_json)
    if not as_json:
        shown = ("precision", "recall", "f1")
        rows = [(one["label"], *(f"{one[k]:.3f}" for k in shown), str(one["support"])) for one in table]
        terminal.table(("class", *shown, "clips"), rows, right=(*shown, "clips"))


def _labels(truth: Path) -> dict[str, str]:
    """File to label, as the table names them."""
    labels: dict[str, str] = {}
    for row in manifest.read_table(truth):
        name = next(filter(None, (texts.string(row.cells.get(column)).strip() for column in texts.IDS)), "")
        if not name or name in labels:
            told = f"{name} again; keep one row for each file" if name else "no file; give a column such as file_name"
            raise DataError(f"{truth.name} line {row.line} names {told}")
        labels[name] = texts.string(row.cells.get("label"))
    return labels


def _predicted(predictions: Path, labels: Mapping[str, str]) -> tuple[dict[str, dict[str, float]], int]:
    """Mean scores of each labelled file's rows, and how many files could not be read.

    Raises:
        DataError: naming files without a label, labels without a file, and two files for one label.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    paths: dict[str, str] = {}
    lone = []
    for row in manifest.read_table(predictions):
        path = texts.string(row.cells.get("path")).strip()
        name = _known_as(path, labels)
        if name is None:
            lone.append(path)
            continue
        if paths.setdefault(name, path) != path:
            raise DataError(f"{path} and {paths[name]} are both '{name}'; write their folders into file_name too")
        rows.setdefault(name, []).extend([] if texts.string(row.cells.get("error")) else [_scores(row.cells)])
    absent = sorted(set(labels) - set(rows))
    if lone or absent:
        raise DataError(
            f"{len(lone)} prediction(s) have no label: {manifest.shorten(lone)}; {len(absent)} labelled file(s) have no"
            f" prediction: {manifest.shorten(absent)}"
        )
    good = {name: {c: float(np.mean([one[c] for one in own])) for c in own[0]} for name, own in rows.items() if own}
    if not good:
        raise DataError(f"{predictions.name} has no file that could be read; see its error column")
    return good, len(rows) - len(good)


def _known_as(path: str, labels: Mapping[str, str]) -> str | None:
    """The longest end of a path that is a labelled file."""
    parts = PurePath(path).parts
    ends = ("/".join(parts[k:]) for k in range(len(parts)))
    return next((end for end in (path, *ends) if end in labels), None)


def _scores(cells: Mapping[str, Any]) -> dict[str, float]:
    value = cells.get("scores")
    try:
        found = json.loads(value) if isinstance(value, str) else dict(value or {})
        return {str(label): float(p) for label, p in found.items()}
    except (ValueError, TypeError) as error:
        raise DataError(f"a row has no readable scores ({error}); give what `ossicle predict` wrote") from None
