"""Captions to tokens as the Java PTBTokenizer of pycocoevalcap gives them, lower case and without punctuation.

The lexer of Stanford CoreNLP 3.4.1 is a long list of rules; these are the ones that written captions meet. What it does
to the real captions of AudioCaps and Clotho is matched on every one.
"""

import re
from functools import lru_cache

# What pycocoevalcap drops after tokenising.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"}
OPENING, CLOSING = "“„«", "”»"
APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})
ABBREVIATIONS = (
    "mr mrs ms dr prof sr jr st gen col maj capt lt sgt rev hon gov sen rep pres inc corp co ltd bros vs etc e.g i.e "
    "jan feb mar apr jun jul aug sep sept oct nov dec ave blvd rd mt no fig dept est"
).split()
SPLIT_WORDS = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na"),
    "lemme": ("lem", "me"), "gimme": ("gim", "me"), "'tis": ("'t", "is"), "'twas": ("'t", "was"),
    "d'ye": ("d'", "ye"), "more'n": ("more", "'n"), "whaddya": ("whadd", "ya"),
}  # fmt: skip

_LETTER = r"[^\W\d_]"
_WORD = rf"{_LETTER}(?:{_LETTER}|\d|_)*(?:[.!?]{_LETTER}(?:{_LETTER}|\d)*)*"
_NUMBER = r"\d+(?:[.,:]\d+)*"
_PIECE = rf"(?:{_WORD}|{_NUMBER}(?:{_LETTER}+)?)"
_TOKEN = re.compile(
    rf"""
      (?P<url>(?:https?://|www\.)[^\s"<>|(){{}}]+[^\s"<>|.!?(),;:{{}}-])
    | (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
    | (?P<acronym>(?:{_LETTER}\.){{2,}})
    | (?P<abbreviation>\b(?:{"|".join(map(re.escape, ABBREVIATIONS))})\.(?=\s))
    | (?P<negated>{_LETTER}+?(?=n't(?!\w)))
    | (?P<clitic>(?:'(?:s|m|d|re|ve|ll)|n't)(?!\w))
    | (?P<tis>'t(?:is|was)\b)
    | (?P<thing>{_PIECE}(?:[-/]{_PIECE})*)
    | (?P<dots>\.\.+|…)
    | (?P<dash>--+|[–—])
    | (?P<quote>["“”„«»`]|''|``)
    | (?P<other>\S)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(caption: str) -> list[str]:
    """Tokens of a caption without punctuation.

    Args:
        caption: any text; line breaks count as spaces.

    Returns:
        Lower-case tokens.
    """
    return [token for token in ptb(caption) if token not in PUNCTUATION]


def ptb(caption: str) -> list[str]:
    """Tokens of a caption with punctuation, lower case, brackets as -lrb- and so on."""
    return [token for chunk in caption.translate(APOSTROPHES).lower().split() for token in _chunk(chunk)]


@lru_cache(maxsize=1 << 16)
def _chunk(chunk: str) -> tuple[str, ...]:
    """Tokens of a stretch without spaces; captions repeat their words, so nearly all are known."""
    if chunk.isalpha() and chunk.isascii() and chunk not in SPLIT_WORDS:
        return (chunk,)
    found: list[str] = []
    place = 0
    text = chunk + " "
    while match := _TOKEN.search(text, place):
        place = match.end()
        found += _tokens(match, text)
    return tuple(found)


def _tokens(match: re.Match[str], text: str) -> list[str]:
    """What one match becomes."""
    token, kind = match.group(), match.lastgroup
    if token in SPLIT_WORDS:
        return list(SPLIT_WORDS[token])
    if kind == "dots":
        return ["..."]
    if kind == "dash":
        return ["--"]
    if kind == "quote":
        opens = token in OPENING or (token == '"' and not text[: match.start()].strip("(["))
        return ["``" if opens or token in "``" else "''"]
    if token == "'" and kind == "other":
        return ["`" if match.start() == 0 and match.end() < len(text.rstrip()) else "'"]
    return [BRACKETS.get(token, token)]

