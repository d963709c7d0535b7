"""Whether captions name the right sounds in the right order, for scenes whose sounds and times are known.

A caption is read as a row of mentions with words between them: "then" puts the left before the right, "after" the
right before the left, "while" joins them. Words in front of the first mention ("after a bark, ...") and "in the
background" reach further. What can be read in two ways is left unsaid: it counts neither as right nor as wrong.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any, Literal, NamedTuple

from ossicle.data.manifest import shorten
from ossicle.data.match import match
from ossicle.data.phrases import Mention, Phrases, esc50
from ossicle.errors import DataError

Relation = Literal["before", "after", "together", "mixed"]
Pairs = dict[tuple[str, str], Relation]
Kind = Literal["then", "after", "with", "and"]

_THEN = re.compile(
    r"\b(?:followed (?:\w+ )?by|then|before|next|later|afterwards?|after (?:that|this|which|a while|a moment)|finally"
    r"|eventually|until|precedes|preceding|gives way to)\b"
)
_AFTER = re.compile(r"\b(?:after|following|preceded by|once)\b")
_WITH = re.compile(
    r"\b(?:while|as|with|during|over|amid|amidst|alongside|whilst|at the same time|at once|together|simultaneously)\b"
)
_SAME = re.compile(r"\b(?:at the same time|at once|together(?! with)|simultaneously)\b")
_UNDER = re.compile(r"\b(?:in (?:the )?background|throughout|the whole time|all the while)\b")
_PARTS = re.compile(rf"[,;]|\band\b|{_THEN.pattern}|{_AFTER.pattern}|{_WITH.pattern}")
_LEAD = re.compile(r"(?:shortly |soon |right |just )?(after|following|before|while|as|whilst|during|with)\b")
_NOT_LINKS = re.compile(r"\b(?:as well as|as well|such as|as if|as though|over and over|as loud as|over ?head)\b")
_REVERSED: dict[Relation, Relation] = {"before": "after", "after": "before"}
_SLACK_S = 1e-3


class _Link(NamedTuple):
    """What stands between two mentions: what it says, whether a comma is in front, whether it closes a group."""

    kind: Kind
    comma: bool
    same: bool


def mentions(caption: str, phrases: Phrases) -> list[Mention]:
    """The sounds a caption speaks of, in the order of its words.

    Args:
        caption: any text.
        phrases: how each label is spoken of.

    Returns:
        Label, first character and the one after the last; words about one sound that follow each other are one.
    """
    merged: list[Mention] = []
    for one in phrases.mentions(caption):
        if merged and merged[-1].label == one.label:
            merged[-1] = Mention(one.label, merged[-1].start, one.end)
        else:
            merged.append(one)
    return merged


def pairs(caption: str, phrases: Phrases) -> Pairs:
    """What a caption states of each two sounds it names.

    Args:
        caption: any text.
        phrases: how each label is spoken of.

    Returns:
        (a, b) and (b, a) to "before", "after" or "together"; "mixed" where the caption says two things of them.
        Pairs of which nothing is said, or that can be read in two ways, are absent.
    """
    text = _NOT_LINKS.sub(lambda m: "_" * len(m[0]), caption.lower())
    found = mentions(caption, phrases)
    stated: Pairs = {}
    under = _underneath(text, found)
    for low, other in product(under, found):
        _state(stated, low.label, other.label, "together")
    main = [one for one in found if one not in under]
    links = [_link(_between(text, found, a, b)) for a, b in zip(main, main[1:], strict=False)]
    first = main[0].start if main else 0
    lead = _LEAD.match(text.lstrip(" \"'")) if main and main[0] is found[0] and first else None
    if lead is None:
        _row(stated, main, links, same=_closing(text, main))
    else:
        _led(stated, text, main, links, lead[1])
    return stated


def _state(stated: Pairs, a: str, b: str, relation: Relation) -> None:
    """Note what is said of two sounds, from both sides."""
    if a == b:
        return
    if stated.get((a, b), relation) != relation:
        relation = "mixed"
    stated[a, b] = relation
    stated[b, a] = _REVERSED.get(relation, relation)


def _all(stated: Pairs, left: Sequence[Mention], right: Sequence[Mention], relation: Relation) -> None:
    for a, b in product(left, right):
        _state(stated, a.label, b.label, relation)


def _underneath(text: str, found: Sequence[Mention]) -> list[Mention]:
    """Mentions right before words such as "in the background", or the first one where the caption starts with them."""
    under = []
    for words in _UNDER.finditer(text):
        earlier = [one for one in found if one.end <= words.start()]
        if earlier and not _PARTS.search(text, earlier[-1].end, words.start()):
            under.append(earlier[-1])
        elif found and not text[: words.start()].strip():
            under.append(found[0])
    return under


def _between(text: str, found: Sequence[Mention], a: Mention, b: Mention) -> str:
    """The words between two mentions without those about the background, and of what is left the words of order."""
    inner = [one for one in found if a.end <= one.start and one.end <= b.start]
    cuts = [a.end, *(edge for one in inner for edge in (one.start, one.end)), b.start]
    gaps = [text[low:high] for low, high in zip(cuts[::2], cuts[1::2], strict=True)]
    ordered = [gap for gap in gaps if _THEN.search(gap) or _AFTER.search(gap)]
    return _UNDER.sub(" ", (ordered or gaps)[-1])


def _link(gap: str) -> _Link:
    same = _SAME.search(gap)
    rest = gap[same.end() :] if same else gap
    for kind, pattern in (("then", _THEN), ("after", _AFTER), ("with", _WITH)):
        word = pattern.search(rest)
        if word is not None:
            return _Link(kind, "," in rest[: word.start()], same is not None)  # type: ignore[arg-type]
    return _Link("and", "," in rest, same is not None)


def _closing(text: str, main: Sequence[Mention]) -> bool:
    """Whether words such as "at the same time" close the last group."""
    return bool(main) and _SAME.search(text, main[-1].end) is not None


def _led(stated: Pairs, text: str, main: Sequence[Mention], links: Sequence[_Link], lead: str) -> None:
    """A caption that begins with "after", "before" or "while": up to the first comma it is about what follows."""
    comma = text.find(",", main[0].end)
    count = max(1, sum(one.end <= comma for one in main))
    front, rest = main[:count], main[count:]
    relations: dict[str, Relation] = {"after": "before", "following": "before", "before": "after"}
    _all(stated, front, rest, relations.get(lead, "together"))
    closed = len(links) >= count and links[count - 1].same
    _row(stated, front, links[: count - 1], same=closed)
    _row(stated, rest, links[count:], same=_closing(text, rest))


def _row(stated: Pairs, row: Sequence[Mention], links: Sequence[_Link], *, same: bool) -> None:
    """Mentions with links between them; a comma with "then" parts the row more strongly than anything else."""
    start = 0
    for stop, link in enumerate(links, start=1):
        if link.kind == "then" and link.comma:
            _chunk(stated, row[start:stop], links[start : stop - 1], same=link.same)
            _all(stated, row[start:stop], row[stop:], "before")
            start = stop
    _chunk(stated, row[start:], links[start:], same=same)


def _chunk(stated: Pairs, row: Sequence[Mention], links: Sequence[_Link], *, same: bool) -> None:
    """What is joined by "and" is one group; between groups a run of one kind of link holds from end to end."""
    groups: list[list[Mention]] = []
    kinds: list[Kind] = []
    for one, link in zip(row, [None, *links], strict=False):
        alone = link is not None and link.same and len(groups[-1]) == 1
        if link is not None and link.kind == "and" and not alone:
            groups[-1].append(one)
            continue
        if link is not None:
            _close(stated, groups[-1], link.same)
            kinds.append("with" if alone and link.kind == "and" else link.kind)
        groups.append([one])
    if groups:
        _close(stated, groups[-1], same)
    relations: dict[Kind, Relation] = {"then": "before", "after": "after", "with": "together"}
    for i, j in combinations(range(len(groups)), 2):
        if len(set(kinds[i:j])) == 1:
            _all(stated, groups[i], groups[j], relations[kinds[i]])


def _close(stated: Pairs, group: Sequence[Mention], same: bool) -> None:
    if same:
        for a, b in combinations(group, 2):
            _state(stated, a.label, b.label, "together")


def score(
    captions: Mapping[str, str], scenes: Sequence[Mapping[str, Any]], phrases: Phrases | None = None
) -> dict[str, Any]:
    """Score captions of scenes by the sounds they name and what they say of their order.

    Args:
        captions: name of the scene's file, with or without its folder, to its caption.
        scenes: rows of a scene folder's metadata.jsonl: file_name, and events with label, start and end in seconds.
        phrases: how labels are spoken of; those that ship if not given. Labels without an entry are found by name.

    Returns:
        event_recall, event_precision, event_f1 over all events; order_accuracy: of pairs of sounds one after the
        other of which the caption states something, the share where it states the right order; order_coverage: the
        share of all such pairs of which it states something; together_accuracy and together_coverage likewise for
        sounds at once; order_pairs and together_pairs: how many there are. None where nothing can be counted.
        `items`: for each scene, in order, a row with file_name, caption, missed, invented, wrong (pairs) and counts.

    Raises:
        DataError: if a scene has no caption, a caption has no scene, or a row has no events.
    """
    texts = _texts(captions, scenes)
    known = (phrases or esc50()).including(sorted({e["label"] for row in scenes for e in row["events"]}))
    items = [_item(row, text, known) for row, text in zip(scenes, texts, strict=True)]
    total = {key: sum(item["counts"][key] for item in items) for key in items[0]["counts"]}
    recall = _share(total["hit"], total["events"])
    precision = _share(total["hit"], total["named"])
    return {
        "event_recall": recall, "event_precision": precision,
        "event_f1": _share(2 * total["hit"], total["events"] + total["named"]),
        "order_accuracy": _share(total["order_right"], total["order_stated"]),
        "order_coverage": _share(total["order_stated"], total["order_pairs"]),
        "together_accuracy": _share(total["together_right"], total["together_stated"]),
        "together_coverage": _share(total["together_stated"], total["together_pairs"]),
        "order_pairs": total["order_pairs"], "together_pairs": total["together_pairs"],
        "items": items,
    }  # fmt: skip


def truth(events: Sequence[Mapping[str, Any]]) -> Pairs:
    """What is true of each two sounds: a is before b if it ends by the time b starts, else they are together."""
    found: Pairs = {}
    for a, b in combinations(sorted(events, key=lambda e: float(e["start"])), 2):
        _state(found, a["label"], b["label"], "before" if a["end"] <= b["start"] + _SLACK_S else "together")
    return found


def _item(row: Mapping[str, Any], caption: str, phrases: Phrases) -> dict[str, Any]:
    """One scene's counts and what is wrong with its caption."""
    events = {event["label"] for event in row["events"]}
    named = {one.label for one in mentions(caption, phrases)}
    stated = pairs(caption, phrases)
    counts = {"events": len(events), "named": len(named), "hit": len(events & named)}
    wrong = []
    facts = {pair: fact for pair, fact in truth(row["events"]).items() if fact != "after"}
    for kind, name in (("before", "order"), ("together", "together")):
        real = [(a, b) for (a, b), fact in facts.items() if fact == kind and (kind == "before" or a < b)]
        said = [pair for pair in real if pair in stated]
        right = [pair for pair in said if stated[pair] == kind]
        wrong += [[a, b, stated[a, b]] for a, b in said if (a, b) not in right]
        counts |= {f"{name}_pairs": len(real), f"{name}_stated": len(said), f"{name}_right": len(right)}
    return {
        "file_name": row["file_name"], "caption": caption, "missed": sorted(events - named),
        "invented": sorted(named - events), "wrong": wrong, "counts": counts,
    }  # fmt: skip


def _texts(captions: Mapping[str, str], scenes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each scene's caption, once both sides are known to go together."""
    names = [str(row.get("file_name", "")) for row in scenes]
    found = match(names, captions)
    faults = [found.faults("scene(s) have no caption", "caption(s) have no scene")]
    silent = [name for name, row in zip(names, scenes, strict=True) if not row.get("events")]
    again = [name for name, count in Counter(names).items() if count > 1]
    faults += [f"{len(silent)} scene(s) have no events: {shorten(silent)}"] if silent else []
    faults += [f"{len(again)} scene(s) come more than once: {shorten(again)}"] if again else []
    if any(faults) or not scenes:
        told = "; ".join(filter(None, faults))
        raise DataError(told or "there are no scenes; give the rows of a metadata.jsonl of ossicle scenes")
    return [captions[found.pairs[name]] for name in names]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
