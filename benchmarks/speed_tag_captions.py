"""Captions from tags: a folder of 10 s clips, beam 4, batch 16, beside today's peers, × real time.

    python benchmarks/speed_tag_captions.py --model DIR --data PATH_OF_ESC50 [--clips 32]

Clips are two ESC-50 clips each, one after the other. Ours is a captioner from tags (--model), hearing included, nothing
cached. Beside it: the same writer through transformers' `generate` clip by clip, hearing included; and
SmolLM2-135M-Instruct reading the same tags in a prompt, `generate` clip by clip, which is what one would write by hand.
Interleaved, float32.
"""

import argparse
import tempfile
from pathlib import Path

import soundfile
import torch

import measure
from ossicle.backbones.text import language_model
from ossicle.contracts import Clip
from ossicle.data import open_data
from ossicle.recipe import build
from ossicle.sound import audio
from ossicle.tasks import tracks
from ossicle.tasks.tracks import Tracker, track_of
from ossicle.training.evaluate import predict_rows

SECONDS, RATE_HZ, BATCH = 10, 32_000, 16


def folder_of(data: Path, count: int, out: Path) -> list[Path]:
    """Ten-second clips."""
    sounds = [clip.path for clip in open_data(f"esc50:{data}").clips][: 2 * count]
    paths = []
    for i in range(count):
        pair = [audio.load(path, RATE_HZ) for path in sounds[2 * i : 2 * i + 2]]
        paths.append(out / f"{i}.flac")
        soundfile.write(paths[-1], torch.cat(pair).numpy(), RATE_HZ)
    return paths


def main() -> None:
    """Time the three ways on the same files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    one_of_four = ["task.decoding.candidates=1", "task.decoding.beams=4"]  # as the others write
    loaded = build.load(args.model, one_of_four, kinds=build.CAPTIONERS)
    task, smol = loaded.task, language_model("smollm2-135m-instruct")
    with tempfile.TemporaryDirectory() as scratch:
        paths = folder_of(args.data, args.clips, Path(scratch))

        def fresh() -> None:
            task.tracker = Tracker(task.encoder, root=Path(tempfile.mkdtemp(dir=scratch)))

        def ours() -> None:
            fresh()
            predict_rows(task, [Clip(path) for path in paths], batch=BATCH, precision="float32")

        def one_by_one() -> None:
            fresh()
            for path in paths:
                given = task.given(task.collate([Clip(path)], None))
                with torch.no_grad():
                    task.language.model.generate(
                        inputs_embeds=given.embedded, attention_mask=given.real.long(), num_beams=4, max_new_tokens=48
                    )  # fmt: skip

        def prompted() -> None:
            for path in paths:
                whole, rows = track_of(task.encoder, audio.load(path, task.encoder.rate_hz))
                track = tracks.Track(whole.numpy(), rows.numpy(), SECONDS)
                names = ", ".join(t.name for t in tracks.heard(track, task.tracker.names, most=10, least=0.03))
                turn = [{"role": "user", "content": f"Describe the sound in which one hears: {names}"}]
                ids = smol.tokenizer.apply_chat_template(
                    turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )  # fmt: skip
                with torch.no_grad():
                    smol.model.generate(**ids, num_beams=4, max_new_tokens=48, do_sample=False)

        ways = {"ours": ours, "generate one by one": one_by_one, "SmolLM2 in a prompt": prompted}
        medians = measure.interleaved_medians(ways, rounds=args.rounds)
    seconds = {way: ms / 1000 for way, ms in medians.items()}
    rows = [
        {
            "way": way, "seconds": round(took, 2), "x_real_time": round(SECONDS * args.clips / took, 1),
            "ratio": round(took / seconds["ours"], 2),
        }
        for way, took in seconds.items()
    ]  # fmt: skip
    for row in rows:
        print(row)
    machine = measure.machine(("torch", "transformers")) | {"threads": torch.get_num_threads()}
    measure.save("speed_tag_captions", {"machine": machine, "what": __doc__, "clips": args.clips, "rows": rows})


if __name__ == "__main__":
    main()
