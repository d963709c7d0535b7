"""Make the list of sound words that `metrics.caption.invented` reads, from class names and training captions.

    python recipes/words/sound_words.py --captions audiocaps_train.csv

Candidates are the words of the class names of AudioSet and YAMNet, and those that are said ten times or more in
AudioCaps' training captions, inflected forms together. `no_sounds.txt` beside this file says which of them name no
sound; it was written by reading all candidates.
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from ossicle.backbones import tags
from ossicle.data import captions
from ossicle.files import write_atomic
from ossicle.metrics.caption import invented

STOP = Path(__file__).with_name("no_sounds.txt")
LEAST = 10
IRREGULAR = {
    "children": "child", "footfalls": "footfall", "geese": "goose", "hooves": "hoof", "leaves": "leaf", "men": "man",
    "mice": "mouse", "rang": "ring", "rats": "rat", "rung": "ring", "sang": "sing", "spoke": "speak",
    "spoken": "speak", "sung": "sing", "tigers": "tiger", "wolves": "wolf", "women": "woman",
}  # fmt: skip
# Ending to what may stand in its place.
ENDINGS = (("ies", "y"), ("ied", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))
# Words that say of what sounds no more than others of the list do, in names that embeddings do not bring together.
STAND_INS = {
    "accelerate": "engine vehicle car", "acceleration": "engine vehicle car", "announce": "speak", "announcer": "speak",
    "baa": "bleat sheep", "belch": "burp", "bell": "chime", "blare": "horn siren alarm", "boy": "child man",
    "bug": "insect", "bump": "thump", "burble": "gurgle", "chat": "speak", "chatter": "speak", "cheep": "chirp",
    "chime": "bell", "chug": "engine train", "conversation": "speak", "converse": "speak", "eat": "chew",
    "exclaim": "speak shout", "flutter": "flap", "footfall": "footstep", "gallop": "horse clop", "girl": "child woman",
    "grind": "drill sanding saw", "gulp": "gurgle", "guy": "man", "holler": "shout", "hoof": "horse clop",
    "idle": "engine", "lady": "woman", "machine": "mechanism", "machinery": "mechanism", "mumble": "speak whisper",
    "murmur": "speak whisper", "narrate": "speak", "peep": "chirp", "plate": "dish", "pound": "thump bang",
    "putter": "engine", "rev": "engine", "ring": "bell chime", "rip": "tear", "ruffle": "rustle", "say": "speak",
    "screech": "squeal", "scuffing": "footstep", "slurp": "gurgle", "sputter": "engine", "stomp": "footstep",
    "ting": "ding", "toddler": "child baby", "toll": "bell", "traffic": "vehicle car", "trot": "horse clop",
    "whine": "squeal whimper", "whiz": "whoosh", "yelp": "bark yip", "zoom": "car vehicle",
}  # fmt: skip


def words(text: str) -> list[str]:
    """Words without apostrophes and what follows them."""
    return re.findall(r"[a-z]+", re.sub(r"['’]s\b", "", text.lower()))


def named() -> set[str]:
    """Every word of the class names."""
    return {word for classes in ("audioset", "yamnet") for name in tags.names(classes) for word in words(name)}


def bases(word: str) -> Iterator[str]:
    """What a form may be a form of."""
    if word in IRREGULAR:
        yield IRREGULAR[word]
        return
    for ending, instead in () if word.endswith("ss") else ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 2:
            continue
        yield stem + instead
        if ending in ("ing", "ed") and len(stem) > 3 and stem[-1] == stem[-2]:
            yield stem[:-1]


def plural(word: str) -> str:
    """With an s; also the third person of a verb. What ends in one s has it already."""
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if re.search(r"(?:s|[sc]h|x|z)$", word):
        return word if re.search(r"[^su]s$", word) else word + "es"
    return word + "s"


def grouped(said: Counter[str], names: set[str]) -> dict[str, list[str]]:
    """Base to its forms that occur; a base that does not occur itself counts where two forms point to it."""
    known = set(said) | names | set(IRREGULAR) | set(IRREGULAR.values())
    asked = Counter(base for word in known for base in set(bases(word)) if base not in known)
    known |= {base for base, count in asked.items() if count > 1 and len(base) > 3}

    def base(word: str) -> str:
        found = [one for one in bases(word) if one in known and len(one) > 2]
        return base(max(found, key=lambda one: (one in names, said[one], one))) if found else word

    groups: dict[str, list[str]] = defaultdict(list)
    for word in sorted(known):
        groups[base(word)].append(word)
    return groups


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True)
    args = parser.parse_args()
    texts = captions.references(args.captions)
    said = Counter(word for own in texts.values() for text in own for word in words(text))
    names = named()
    stop = {line for text in STOP.read_text().splitlines() if not text.startswith("#") for line in text.split()}
    lines, kept = [], []
    for base, forms in sorted(grouped(said, names).items()):
        often = sum(said[form] for form in forms) >= LEAST or names & set(forms)
        left = [form for form in forms if f"={form}" not in stop]
        if not often or base in stop or not left:
            continue
        word = min(left, key=lambda one: (one != base, one not in names, len(one)))
        shown = sorted({*left, plural(word)} - {word})
        also = f" | {STAND_INS[word]}" if word in STAND_INS else ""
        kept.append(word)
        lines.append(f"{word} {' '.join(shown)}{also}")
    wrong = sorted({one for word, more in STAND_INS.items() for one in (word, *more.split())} - set(kept))
    if wrong:
        raise SystemExit(f"not in the list: {', '.join(wrong)}")
    head = "# word, its other forms | words whose support is its own; made by recipes/words/sound_words.py\n"
    write_atomic(invented.LIST, lambda part: part.write_text(head + "\n".join(lines) + "\n", encoding="utf-8"))
    print(f"{len(kept)} sound words of {len(names)} words of class names and {len(said)} words of captions")


if __name__ == "__main__":
    main()
