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
CURRENCIES = {"£": "#", "€": "$"}
QUOTES = {"“": "``", "„": "``", "«": "``", "”": "''", "»": "''", "‘": "`"}
APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})
ABBREVIATIONS = (
    r"mr|mrs|ms|dr|prof|sr|jr|st|gen|col|maj|capt|lt|sgt|rev|hon|gov|sen|rep|pres|inc|corp|co|ltd|bros|vs|etc|e\.g|i\.e"
    r"|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|ave|blvd|rd|mt|no|fig|dept|est"
)
SPLIT_WORDS = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na"),
    "lemme": ("lem", "me"), "gimme": ("gim", "me"), "'tis": ("'t", "is"), "'twas": ("'t", "was"),
    "y'all": ("y'", "all"), "d'ye": ("d'", "ye"), "more'n": ("more", "'n"),
}  # fmt: skip

_LETTER = r"[^\W\d_]"
_WORD = rf"{_LETTER}(?:{_LETTER}|\d|_)*(?:[.!?]{_LETTER}(?:{_LETTER}|\d)*)*"
_NUMBER = r"\d+(?:[.,:]\d+)*"
_PIECE = rf"(?:{_WORD}|\d+{_LETTER}(?:{_LETTER}|\d)*|{_NUMBER})"
_TOKEN = re.compile(
    rf"""
      (?P<url>(?:https?://|www\.)[^\s"<>|(){{}}]+[^\s"<>|.!?(),;:{{}}-])
    | (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
    | (?P<tag></?{_LETTER}[^\s<>]*>)
    | (?P<name>@{_LETTER}\w*)
    | (?P<acronym>(?:{_LETTER}\.){{2,}}|(?<!\w){_LETTER}\.(?=\s))
    | (?P<abbreviation>\b(?:{ABBREVIATIONS})\.(?=\s|\d))
    | (?P<split>(?:{"|".join(SPLIT_WORDS)})(?!\w))
    | (?P<language>\bc(?:\+\+|\#))
    | (?P<elided>(?:[dol]'{_LETTER}{{2,}}|ma'am|ne'er|e'er|'em|'til|'cause)(?!\w))
    | (?P<negated>{_LETTER}+?(?=n't(?!\w)))
    | (?P<clitic>(?:'(?:s|m|d|re|ve|ll)|n't)(?!\w))
    | (?P<decade>'\d0s(?!\w))
    | (?P<and>'n'(?!\w))
    | (?P<thing>{_LETTER}+&{_LETTER}+|(?:(?<=\s)[+-](?=\d))?{_PIECE}(?:[-/]{_PIECE})*)
    | (?P<shout>[!?]{{2,}})
    | (?P<dots>\.\.\.+|…)
    | (?P<dash>--+|[–—])
    | (?P<double>["]|''|``)
    | (?P<single>')
    | (?P<other>\S)
    """,
    re.VERBOSE,
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
    text = f" {chunk} "
    while match := _TOKEN.search(text, place):
        place = match.end()
        found += _tokens(match, text)
    return tuple(found)


def _tokens(match: re.Match[str], text: str) -> tuple[str, ...]:
    """What one match becomes."""
    token, kind = match.group(), match.lastgroup
    starts = not text[: match.start()].strip(" ([{-")
    if kind == "split":
        return SPLIT_WORDS[token]
    if kind == "dots":
        return ("...",)
    if kind == "dash":
        return ("--",)
    if kind == "double":
        return ("``" if token == "``" or (token == '"' and starts) else "''",)
    if kind == "single":  # it opens a quotation before two letters or more, or before one that is closed at once
        after = text[match.end() : match.end() + 2]
        opens = (
            after[0].isalnum() and (after[1:].isalnum() or after[1:] == "'") and not text[match.start() - 1].isdigit()
        )
        return ("`" if opens else "'",)
    return (BRACKETS.get(token) or CURRENCIES.get(token) or QUOTES.get(token) or token,)
