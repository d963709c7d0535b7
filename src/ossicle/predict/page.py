"""An HTML page that stands alone: its style, its policy, and text that stays text."""

import html

POLICY = (
    "default-src 'none'; img-src data:; media-src data: file: 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark; --gutter: 2.25rem;
  --page: #f4f5f7; --card: #ffffff; --line: #d8dce3; --text: #1b2029; --soft: #525b69; --accent: #1f62a8;
  --rest: #7f93ad; --track: #e9ecf1; --good: #0b6339; --good-back: #e1f3e8; --bad: #97201b; --bad-back: #fce8e6;
  --plain: #49515e; --plain-back: #eceff3; --heard: #84b4ea; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12151a; --card: #1b2027; --line: #353c47; --text: #e9ecf1; --soft: #a9b2c0; --accent: #6fb0f2;
  --rest: #6c7f99; --track: #2a313b; --good: #93e0b5; --good-back: #143527; --bad: #ffb6ac; --bad-back: #44211e;
  --plain: #c5ccd7; --plain-back: #2c333d; --heard: #2f6299; }
  .card img { filter: brightness(0.9); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.page { max-width: 76rem; margin: 0 auto; padding: clamp(1rem, 4vw, 2.5rem); }
h1 { margin: 0; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; letter-spacing: -0.01em; }
.verdict { margin: 0.4rem 0 0; font-size: 1.15rem; color: var(--soft); }
.verdict strong { color: var(--text); }
.facts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem 1.5rem;
  margin: 1.5rem 0 2rem; padding: 1.1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
@media (min-width: 44rem) { .facts { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (min-width: 70rem) { .facts { grid-template-columns: repeat(6, minmax(0, 1fr)); } }
.facts dt { font-size: 0.8rem; color: var(--soft); }
.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.facts small { display: block; font-size: 0.8rem; font-weight: 400; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.25rem; }
.card { display: flex; flex-direction: column; gap: 0.9rem; min-width: 0; padding: 1.1rem 1.25rem 1.25rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.top { display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between; gap: 0.35rem 0.75rem; }
h2 { margin: 0; min-width: 0; font-size: 1.1rem; line-height: 1.3; overflow-wrap: anywhere; }
.badge { padding: 0.1rem 0.6rem; border-radius: 999px; font-size: 0.8rem; font-weight: 600; color: var(--plain);
  background: var(--plain-back); }
.badge.right { color: var(--good); background: var(--good-back); }
.badge.wrong { color: var(--bad); background: var(--bad-back); }
.scene, .wave { margin: 0 0 0 var(--gutter); }
.heard { position: relative; }
.heard img { display: block; width: 100%; height: 10rem; background: var(--track); }
.khz, .seconds { font-size: 0.75rem; line-height: 1; color: var(--soft); }
.khz { position: absolute; inset: 0 100% 0 calc(-1 * var(--gutter)); }
.seconds { position: relative; height: 1.35rem; }
.khz span, .seconds span { position: absolute; }
.khz span { right: 0.45rem; transform: translateY(50%); }
.khz .unit { top: 0; right: auto; left: 0; transform: none; }
.khz span:not(.unit)::after { content: ""; position: absolute; top: 50%; right: -0.45rem; width: 0.3rem;
  border-top: 1px solid var(--soft); }
.seconds span { top: 0.4rem; transform: translateX(-50%); }
.seconds .unit { left: calc(-1 * var(--gutter)); transform: none; }
.seconds span:not(.unit)::before { content: ""; position: absolute; top: -0.4rem; left: 50%; height: 0.3rem;
  border-left: 1px solid var(--soft); }
.head { margin: 0.4rem 0 0.4rem calc(-1 * var(--gutter)); }
.tags { margin: 0; padding: 0; list-style: none; display: grid; gap: 2px; font-size: 0.85rem; line-height: 1.25; }
.tags li { position: relative; display: flex; justify-content: space-between; gap: 0.75rem; padding: 0.15rem 0.4rem;
  background: linear-gradient(to right, var(--line) 1px, transparent 1px) 0 0 / var(--step) 100% var(--track); }
.tags .bar { position: absolute; top: 0; bottom: 0; min-width: 2px; background: var(--heard); }
.tags .name, .tags .value { position: relative; pointer-events: none; overflow-wrap: anywhere; }
.tags .value { flex: none; font-variant-numeric: tabular-nums; }
.told { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
figure svg { display: block; width: 100%; height: 4rem; color: var(--accent); background: var(--track); }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; margin-top: 0.25rem;
  font-size: 0.8rem; color: var(--soft); }
audio { display: block; width: 100%; height: 2.75rem; }
.said { margin: 0.3rem 0 0; font-style: italic; overflow-wrap: anywhere; }
.note { margin: 0; font-size: 0.875rem; color: var(--soft); }
.bars { margin: 0; padding: 0; list-style: none; display: grid; gap: 0.4rem; }
.bars li { display: grid; grid-template-columns: min(9rem, 36%) minmax(3rem, 1fr) 3.8rem; align-items: center;
  gap: 0.75rem; font-size: 0.9rem; }
.bars .name { overflow-wrap: anywhere; line-height: 1.25; }
.bars .track { height: 0.7rem; background: var(--track); border-radius: 4px; overflow: hidden; }
.bars .fill { display: block; height: 100%; min-width: 1px; background: var(--rest); }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); }
.bars li:first-child { font-weight: 600; }
.bars li:first-child .fill { background: var(--accent); }
.bars li:first-child .value { color: var(--text); }
.failed { align-self: start; border-color: var(--bad); }
.failed p { margin: 0; overflow-wrap: anywhere; }
a { color: var(--accent); }
footer { margin-top: 2rem; font-size: 0.85rem; color: var(--soft); }
footer p { margin: 0.2rem 0; overflow-wrap: anywhere; }
"""


def document(title: str, header: str, cards: str, foot: str) -> str:
    """The page; `title` is text, the others are HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<div class="page">
<header>
<h1>{text(title)}</h1>
{header}
</header>
<main class="cards">
{cards}
</main>
<footer>{foot}</footer>
</div>
</body>
</html>
"""


def text(value: object) -> str:
    """Text for HTML, between tags or in a quoted attribute; bytes of a file name that are no text become "?"."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True)


def words(label: str) -> str:
    """The name of a class as words, for HTML."""
    return text(label.replace("_", " "))


def percent(share: float) -> str:
    """A share of one, such as "97.5%"."""
    return f"{share:.1%}"
