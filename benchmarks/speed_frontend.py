"""Front-end speed per 10 s clip: KaldiFbank against transformers' ASTFeatureExtractor and kaldi-native-fbank.

Without torchaudio, transformers computes the same features with numpy, which is what is timed. All three work on the
same clips in the same run, and each on one core: ours and kaldi-native-fbank by design, numpy all but its products.
"""

import argparse
import warnings

import kaldi_native_fbank
import numpy as np
import torch
from transformers import ASTFeatureExtractor
from transformers.utils import is_speech_available

from measure import interleaved_medians, machine, ratios, save
from ossicle.sound.frontends import KaldiFbank

RATE_HZ, SECONDS = 16_000, 10


def kaldi(clip: np.ndarray) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 128
    options.use_energy = False
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(RATE_HZ, clip)
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    waves = torch.randn(chosen.batch, RATE_HZ * SECONDS, generator=torch.Generator().manual_seed(0)) * 0.1
    clips = list(waves.numpy())
    ours = KaldiFbank()
    with warnings.catch_warnings():  # its mel matrix has empty filters, as Kaldi's has
        warnings.simplefilter("ignore", UserWarning)
        theirs = ASTFeatureExtractor(max_length=ours.frames(waves.shape[1]))
    peer = "ASTFeatureExtractor" + (" (torchaudio)" if is_speech_available() else " (numpy)")
    medians = interleaved_medians(
        {
            "ossicle KaldiFbank": lambda: ours(waves),
            peer: lambda: theirs(clips, sampling_rate=RATE_HZ, return_tensors="pt"),
            "kaldi-native-fbank": lambda: [kaldi(clip) for clip in clips],
        },
        rounds=chosen.rounds,
    )
    per_clip = {name: round(value / chosen.batch, 3) for name, value in medians.items()}
    faster = ratios(per_clip, "ossicle KaldiFbank")
    result = {
        "what": f"log-mel features of {chosen.batch} clips of {SECONDS} s at {RATE_HZ} Hz, 128 mels",
        "machine": machine(["torch", "numpy", "transformers", "kaldi-native-fbank"]),
        "rounds": chosen.rounds,
        "median_ms_per_clip": per_clip,
        "times_faster": faster,
    }
    path = save("speed_frontend", result)
    for name, value in per_clip.items():
        print(f"{name:32} {value:8.3f} ms per clip  {faster.get(name, 1.0):6.2f} x ours")
    print(f"written to {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
