"""How long a tagger's windows should be: mn04 and yamnet as published, on ESC-50, with windows of 1, 2 and 5 s.

    python benchmarks/quality_tags.py --data esc50:PATH

Every fourth clip of each class that AudioSet has a name for, 47 of the 50. The clips follow one another in a shuffled
order as one long recording, so that windows also lie across two of them, as they do in recordings. A window begins
every half window; a second belongs to the row whose middle is nearest to its own. Seconds are left out that are 40 dB
below the loudest of their clip: many clips end in digital silence. A row is right if its best class is one that
`CLASSES` gives for the clip's, among all of AudioSet. Beside that, every clip alone as one window of 5 s, whose
beginning and end a recording does not tell.
"""

import argparse
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import measure
from ossicle.contracts import Clip, Prediction
from ossicle.data import open_data
from ossicle.predict.predictor import Predictor
from ossicle.sound import audio
from ossicle.tasks import tag

TAGGERS = ("mn04", "yamnet")
WINDOWS_S = (1.0, 2.0, 5.0)
EVERY = 4
SEED = 0
RATE_HZ = 32_000
CLIP_S = 5
FLOOR = 10 ** (-40 / 20)
LEAD_S = 0.7  # silence in front, so that no window length falls in step with the clips
NAMELESS = {"can_opening", "drinking_sipping", "washing_machine"}
# ESC-50's classes, and the classes of AudioSet that name the same; broader ones such as Animal or Vehicle do not count.
CLASSES: dict[str, tuple[str, ...]] = {
    "airplane": ("Aircraft", "Aircraft engine", "Jet engine", "Propeller, airscrew", "Fixed-wing aircraft, airplane"),
    "breathing": ("Breathing", "Wheeze", "Gasp", "Pant", "Sigh"),
    "brushing_teeth": ("Toothbrush", "Electric toothbrush"),
    "car_horn": ("Vehicle horn, car horn, honking", "Toot", "Air horn, truck horn"),
    "cat": ("Cat", "Purr", "Meow", "Hiss", "Caterwaul"),
    "chainsaw": ("Chainsaw", "Power tool"),
    "chirping_birds": ("Bird", "Bird vocalization, bird call, bird song", "Chirp, tweet", "Squawk"),
    "church_bells": ("Bell", "Church bell", "Change ringing (campanology)"),
    "clapping": ("Clapping", "Applause"),
    "clock_alarm": ("Alarm", "Alarm clock", "Clock", "Beep, bleep", "Telephone bell ringing", "Buzzer"),
    "clock_tick": ("Clock", "Tick", "Tick-tock"),
    "coughing": ("Cough", "Throat clearing"),
    "cow": ("Cattle, bovinae", "Moo"),
    "crackling_fire": ("Fire", "Crackle"),
    "crickets": ("Cricket", "Insect"),
    "crow": ("Crow", "Caw"),
    "crying_baby": ("Crying, sobbing", "Baby cry, infant cry", "Whimper"),
    "dog": ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
    "door_wood_creaks": ("Door", "Creak", "Squeak", "Sliding door", "Cupboard open or close"),
    "door_wood_knock": ("Door", "Knock", "Tap"),
    "engine": (
        "Engine", "Light engine (high frequency)", "Medium engine (mid frequency)", "Heavy engine (low frequency)",
        "Engine starting", "Idling", "Accelerating, revving, vroom",
    ),
    "fireworks": ("Fireworks", "Firecracker", "Explosion", "Burst, pop", "Boom"),
    "footsteps": ("Walk, footsteps", "Run"),
    "frog": ("Frog", "Croak"),
    "glass_breaking": ("Glass", "Shatter", "Breaking", "Smash, crash"),
    "hand_saw": ("Sawing",),
    "helicopter": ("Helicopter",),
    "hen": ("Chicken, rooster", "Cluck", "Fowl"),
    "insects": ("Insect", "Mosquito", "Fly, housefly", "Buzz", "Bee, wasp, etc."),
    "keyboard_typing": ("Typing", "Computer keyboard", "Typewriter"),
    "laughing": ("Laughter", "Baby laughter", "Giggle", "Snicker", "Belly laugh", "Chuckle, chortle"),
    "mouse_click": ("Clicking", "Tick"),
    "pig": ("Pig", "Oink", "Grunt"),
    "pouring_water": ("Pour", "Trickle, dribble", "Gush", "Fill (with liquid)", "Liquid"),
    "rain": ("Rain", "Raindrop", "Rain on surface"),
    "rooster": ("Chicken, rooster", "Crowing, cock-a-doodle-doo", "Fowl"),
    "sea_waves": ("Ocean", "Waves, surf"),
    "sheep": ("Sheep", "Bleat", "Goat"),
    "siren": (
        "Siren", "Civil defense siren", "Emergency vehicle", "Police car (siren)", "Ambulance (siren)",
        "Fire engine, fire truck (siren)",
    ),
    "sneezing": ("Sneeze",),
    "snoring": ("Snoring", "Snort"),
    "thunderstorm": ("Thunderstorm", "Thunder"),
    "toilet_flush": ("Toilet flush",),
    "train": (
        "Train", "Train whistle", "Train horn", "Railroad car, train wagon", "Train wheels squealing", "Rail transport",
        "Subway, metro, underground", "Steam whistle",
    ),
    "vacuum_cleaner": ("Vacuum cleaner",),
    "water_drops": ("Drip", "Raindrop", "Water tap, faucet", "Splash, splatter"),
    "wind": ("Wind", "Wind noise (microphone)", "Rustling leaves", "Howl"),
}  # fmt: skip


def chosen(data: str) -> list[Clip]:
    """Every fourth clip of each class, in a shuffled order."""
    kinds: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(open_data(data).clips, key=lambda clip: clip.name):
        kinds[clip.labels[0]].append(clip)
    if kinds.keys() != CLASSES.keys() | NAMELESS:
        raise SystemExit(f"--data has {len(kinds)} classes, not the 50 of ESC-50")
    clips = [clip for kind, own in kinds.items() if kind in CLASSES for clip in own[::EVERY]]
    random.Random(SEED).shuffle(clips)
    return clips


def recording(clips: list[Clip], path: Path) -> list[tuple[float, str]]:
    """Write the clips one after another; the start and class of every second in which something sounds."""
    seconds, waves = [], [np.zeros(round(LEAD_S * RATE_HZ), np.float32)]
    for number, clip in enumerate(clips):
        wave = np.zeros(CLIP_S * RATE_HZ, np.float32)
        heard = audio.load(clip.path, RATE_HZ).numpy()[: len(wave)]
        wave[: len(heard)] = heard
        waves.append(wave)
        levels = np.sqrt((wave.reshape(CLIP_S, RATE_HZ).astype(np.float64) ** 2).mean(axis=1))
        loud = (levels > FLOOR * levels.max()).nonzero()[0]
        seconds += [(LEAD_S + number * CLIP_S + int(second), clip.labels[0]) for second in loud]
    soundfile.write(path, np.concatenate(waves), RATE_HZ, subtype="FLOAT")
    return seconds


def right(row: Prediction, wanted: str, best: int) -> bool:
    """Whether one of the row's best classes is one of those wanted."""
    return not set(CLASSES[wanted]).isdisjoint([row.label, *list(row.scores)[:best]])


def by_second(task: tag.Tagger, path: Path, seconds: list[tuple[float, str]], window_s: float) -> dict[str, Any]:
    """Shares of seconds that are named rightly, and how many clips' classes fare best and worst."""
    [(_, rows)] = Predictor(task, "tags", window_s, window_s / 2).files([path])
    middles = np.array([(row.start + (row.end or row.start)) / 2 for row in rows])
    pairs = [(rows[int(np.abs(middles - start - 0.5).argmin())], wanted) for start, wanted in seconds]
    kinds: dict[str, list[bool]] = defaultdict(list)
    for row, wanted in pairs:
        kinds[wanted].append(right(row, wanted, 1))
    return {
        "window_s": window_s, "rows": len(rows),
        "right": round(sum(map(sum, kinds.values())) / len(pairs), 4),
        "right_of_three": round(sum(right(row, wanted, 3) for row, wanted in pairs) / len(pairs), 4),
        "scores_in_a_row": round(float(np.mean([len(row.scores) for row in rows])), 1),
        "by_class": {kind: round(float(np.mean(own)), 3) for kind, own in sorted(kinds.items())},
    }  # fmt: skip


def alone(task: tag.Tagger, clips: list[Clip]) -> dict[str, Any]:
    """Shares of whole clips that are named rightly."""
    found = Predictor(task, "tags", float(CLIP_S) + 0.1).files([clip.path for clip in clips])
    pairs = [(rows[0], clip.labels[0]) for (_, rows), clip in zip(found, clips, strict=True)]
    shares = {key: sum(right(*pair, best) for pair in pairs) for key, best in (("right", 1), ("right_of_three", 3))}
    return {"clips": len(pairs), **{key: round(count / len(pairs), 4) for key, count in shares.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    clips = chosen(parser.parse_args().data)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.wav"
        seconds = recording(clips, path)
        for name in TAGGERS:
            task = tag.load(name)
            unknown = {one for own in CLASSES.values() for one in own} - set(task.labels)
            if unknown:
                raise SystemExit(f"{name} has no classes {sorted(unknown)}")
            windows = [by_second(task, path, seconds, window_s) for window_s in WINDOWS_S]
            found[name] = {"windows": windows, "whole clips": alone(task, clips)}
    facts = {"clips": len(clips), "seconds": len(seconds), "every": EVERY, "seed": SEED}
    machine = measure.machine(("torch", "soundfile", "soxr"))
    print(measure.save("quality_tags", {"machine": machine, "data": facts, "taggers": found}))


if __name__ == "__main__":
    main()
