"""Tiny backbones and language models with random weights and made sounds, for tests that need no real weights."""

import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ossicle.backbones import efficientat, freeze, panns, patches, vggish, whisper, yamnet
from ossicle.backbones.efficientat import MobileSizes
from ossicle.backbones.encoder import Encoder
from ossicle.backbones.panns import PannsSizes
from ossicle.backbones.patches import PatchSizes
from ossicle.backbones.text import LanguageModel
from ossicle.backbones.vggish import VggishSizes
from ossicle.backbones.whisper import WhisperSizes
from ossicle.backbones.yamnet import YamnetSizes

RATE_HZ = 16_000

AST = PatchSizes(dim=24, depth=3, heads=3, hidden=48, stride=(16, 16), table=(8, 12), extra=2)
DINOV2 = PatchSizes(
    dim=24, depth=3, heads=3, hidden=48, patch=(14, 14), stride=(14, 14), table=(5, 5), extra=1,
    layer_scale=True, resize="bicubic",
)  # fmt: skip
WHISPER = WhisperSizes(dim=24, depth=3, heads=3, mels=80, positions=60)

MOBILE = MobileSizes(width=0.1, classes=527)
PANNS = PannsSizes(wave=(4, 4, 6, 64), wavegram=3, maps=(3, 6, 8, 8, 8, 12), hidden=16)
VGGISH = VggishSizes(maps=(4, 6, 8, 8, 10, 10), hidden=(20, 16), dim=12)
YAMNET = YamnetSizes(widths=(8, *[16] * 12, 24))

MAKERS = {
    "ast": lambda: patches.make("tiny-ast", AST),
    "dinov2": lambda: patches.make("tiny-dinov2", DINOV2),
    "mobile": lambda: efficientat.make("tiny-mobile", MOBILE),
    "panns": lambda: panns.make("tiny-panns", PANNS),
    "vggish": lambda: vggish.make("tiny-vggish", VGGISH),
    "whisper": lambda: whisper.make("tiny-whisper", WHISPER),
    "yamnet": lambda: yamnet.make("tiny-yamnet", YAMNET),
}
CONVOLUTIONAL = ("mobile", "panns", "vggish", "yamnet")


def encoder(kind: str, seed: int = 0) -> Encoder:
    """A frozen tiny encoder whose every weight is random, norms and biases too."""
    made = MAKERS[kind]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(generator=generator)
            if kind in CONVOLUTIONAL:  # deep, narrow and without norms: it must not forget what it hears
                parameter.mul_((2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.02)
            else:
                parameter.mul_(0.2)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    made.digest = f"tiny-{kind}-{seed}"
    return freeze(made)


def tagger(seed: int = 0, name: str = "tiny-mobile") -> Encoder:
    """A frozen MobileNet tagger of the least widths with random weights; it hears at 32 kHz."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        made = efficientat.make(name, MobileSizes(width=0.05, classes=5))
        for parameter in made.parameters():  # so that what is heard is not lost on the way
            torch.nn.init.kaiming_normal_(parameter) if parameter.ndim > 1 else parameter.normal_(std=0.1)
    made.digest = f"tiny-mobile-{seed}"
    return freeze(made)


def waves(batch: int = 2, seconds: float = 0.8, seed: int = 0) -> torch.Tensor:
    """(batch, samples) float32: a tone of its own for every row, in noise."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tones = torch.stack([torch.sin(2 * math.pi * 220 * (row + 1) * time) for row in range(batch)])
    return 0.4 * tones + 0.05 * torch.randn(tones.shape, generator=generator)


def write_tone(path: Path, hz: float, seconds: float = 1.0, seed: int = 0, rate_hz: int = RATE_HZ) -> Path:
    """A wav file with a tone in noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(len(time))
    soundfile.write(path, (0.4 * np.sin(2 * np.pi * hz * time) + 0.02 * noise).astype(np.float32), rate_hz)
    return path


CHATML = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
# The shape of Llama 3's: a text begins with its own token and a turn ends in one that is not the text's end.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|head|>\\n\\n' + m['content'] | trim"
    " + '<|turn|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|head|>\\n\\n' }}{% endif %}"
)


def tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes."""
    alphabet = sorted(ByteLevel.alphabet())
    made = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, additional_special_tokens=["<|start|>", "<|head|>", "<|turn|>"], **special
    )
    found.chat_template = template
    return found


def language(seed: int = 0, width: int = 32, template: str | None = CHATML) -> LanguageModel:
    """A Llama of two layers with random weights."""
    torch.manual_seed(seed)
    read = tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(read), hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, bos_token_id=None,
        eos_token_id=read.eos_token_id, pad_token_id=read.eos_token_id,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config), read, "tiny-llama", f"tiny-llama-{seed}-{width}")
