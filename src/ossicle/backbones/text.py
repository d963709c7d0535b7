"""Language models that are spoken to in embeddings: frozen, with peft's LoRA on them."""

import inspect
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn

from ossicle.backbones import network, weights
from ossicle.devices import Precision, resolve
from ossicle.errors import AdapterError, CheckpointError, UsageError, WeightsError
from ossicle.files import write_atomic

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
REPO = re.compile(r"[\w.-]+/[\w.-]+")
SAMPLED = 256
# Some templates write today's date, with which a captioner would read another prompt every day.
FIXED = {"date_string": "26 Jul 2024"}
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Lora:
    """Low-rank corrections of a language model's linear maps (Hu et al. 2021), as peft makes them.

    Args:
        rank: of each correction.
        alpha: the correction is scaled by alpha / rank.
        dropout: before it, in training.
        targets: names of the linear maps; captioning with LoRA takes query and key.
    """

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    targets: tuple[str, ...] = ("q_proj", "k_proj")


def alike(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine of two samples of weights: 1 for the same, above 0.9 for a quantised copy, about 0 for another model."""
    return float(nn.functional.cosine_similarity(torch.tensor(one), torch.tensor(other), dim=0))


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer. It is frozen; only a LoRA on it trains.

    Args:
        model: of transformers.
        tokenizer: its own.
        name: as it is known to `ossicle models`, on the hub, or by its folder.
        digest: SHA-256 of its weights.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, digest: str = "") -> None:
        super().__init__()
        self.causal = model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.digest = tokenizer, name, digest
        self.wrapped: list[Any] = []  # peft's model around `causal`, kept out of the module tree
        head = model.get_output_embeddings()
        if head is None:
            raise WeightsError(f"{name} has no output embeddings, so it cannot write; give a causal language model")
        head.register_forward_pre_hook(lambda module, given: (given[0].contiguous(),))  # a slice takes twice as long
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    def train(self, mode: bool = True) -> "LanguageModel":
        """Only the LoRA's dropout ever trains; the frozen model keeps its own off."""
        super().train(False)
        for path, module in self.named_modules():
            if "lora_dropout" in path:
                module.train(mode)
        self.training = mode
        return self

    def sizes(self) -> list[int]:
        """Vocabulary, width, layers."""
        table = self.causal.get_input_embeddings().weight
        return [*map(int, table.shape), int(self.causal.config.get_text_config().num_hidden_layers)]

    def sample(self) -> list[float]:
        """Embedding values at fixed places: with `alike`, tells models of one size apart in whatever precision."""
        flat = self.causal.get_input_embeddings().weight.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, SAMPLED, dtype=torch.float64).long()
        return [round(float(value), 5) for value in flat[places.to(flat.device)]]

    def base_parameters(self) -> int:
        """Of the frozen model."""
        return int(self.causal.num_parameters()) - sum(value.numel() for value in self.saved().values())

    @property
    def width(self) -> int:
        """Of its embeddings."""
        return int(self.causal.get_input_embeddings().weight.shape[1])

    def embed(self, ids: Tensor) -> Tensor:
        """(…) token ids to (…, width)."""
        table = self.causal.get_input_embeddings()
        rows: Tensor = table(ids.to(table.weight.device))
        return rows

    def logits(self, embedded: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Scores of the next token after each of the last `keep` places.

        Args:
            embedded: (batch, places, width).
            mask: (batch, places) bool or int, 0 where padded.
            keep: places counted from the end; the others never reach the vocabulary.

        Returns:
            (batch, keep, vocabulary).
        """
        asked = {"logits_to_keep": keep} if self._keeps else {}
        out = self.causal(inputs_embeds=embedded, attention_mask=mask.long(), use_cache=False, **asked)
        found: Tensor = out.logits[:, -keep:]
        return found

    def add_lora(self, lora: Lora) -> None:
        """Put a fresh LoRA on it: A drawn from torch's generator, B zero, so that it starts silent.

        Raises:
            AdapterError: if a target is not in this model.
        """
        import peft
        from transformers.pytorch_utils import Conv1D

        config = peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets),
            bias="none", task_type="CAUSAL_LM",
        )  # fmt: skip
        try:
            self._wrap(config)
        except ValueError as error:
            maps = (nn.Linear, Conv1D)
            linear = {path.rpartition(".")[2] for path, m in self.causal.named_modules() if isinstance(m, maps)}
            raise AdapterError(
                f"LoRA targets {', '.join(lora.targets)} do not fit {self.name} ({_line(error)}); "
                f"it has {', '.join(sorted(linear))}"
            ) from None

    def load_lora(self, folder: Path, *, trainable: bool = False) -> None:
        """Put a saved LoRA on it, of whatever rank and targets it has.

        Raises:
            AdapterError: if it was made for another language model.
            CheckpointError: if the folder is broken.
        """
        import peft

        state = read_lora(folder)
        try:
            config = peft.LoraConfig.from_pretrained(str(folder))
            config.inference_mode = not trainable
            self._wrap(config)
        except (ValueError, TypeError, OSError) as error:
            raise AdapterError(f"the LoRA in {folder} does not fit {self.name}: {_line(error)}") from None
        self.restore(state)
        if not trainable:
            self.requires_grad_(False)

    def _wrap(self, config: Any) -> None:
        import peft

        config.base_model_name_or_path = None  # known by our own name below
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # peft asks transformers by a name that will go, and says how GPT-2 is laid out
            self.wrapped = [peft.get_peft_model(self.causal, config)]
        config.base_model_name_or_path = self.name
        self.eval()

    def saved(self) -> dict[str, Tensor]:
        """The LoRA under peft's names; nothing if there is none."""
        import peft

        if not self.wrapped:
            return {}
        state: dict[str, Tensor] = peft.get_peft_model_state_dict(self.wrapped[0], save_embedding_layers=False)
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Fill the LoRA from what `saved` gave.

        Raises:
            AdapterError: if names or shapes differ.
        """
        import peft

        own = self.saved()
        shapes, came = ({k: tuple(v.shape) for k, v in d.items()} for d in (own, state))
        wrong = [k for k in shapes.keys() | came.keys() if shapes.get(k) != came.get(k)]
        if wrong:
            first = sorted(wrong)[0]
            raise AdapterError(
                f"the LoRA was made for another language model than {self.name}, or another rank: {len(wrong)} tensors "
                f"differ, such as {first}: shape {came.get(first)} came, {shapes.get(first)} is wanted"
            )
        if own:
            peft.set_peft_model_state_dict(self.wrapped[0], state)

    def save(self, folder: Path) -> None:
        """Write the LoRA in peft's format; nothing if there is none.

        Raises:
            CheckpointError: if it cannot be written; earlier files stay.
        """
        if not self.wrapped:
            return
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.saved().items()}
        write_lora(folder, self.wrapped[0].peft_config["default"], tensors)


def read_lora(folder: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA in peft's format.

    Raises:
        CheckpointError: if they are absent or broken.
    """
    try:
        return safetensors.torch.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read ({error}); train or fetch it again") from None


def write_lora(folder: Path, config: Any, tensors: dict[str, Tensor]) -> None:
    """Write a LoRA in peft's format: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        CheckpointError: if they cannot be written.
    """
    known = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    text = json.dumps(known | {"inference_mode": True}, indent=2, default=str) + "\n"
    write_atomic(folder / WEIGHTS, lambda part: safetensors.torch.save_file(tensors, part, {"format": "pt"}))
    write_atomic(folder / CONFIG, lambda part: part.write_text(text, encoding="utf-8"))


def language_model(name: str, *, bits: int = 0, precision: Precision = "auto") -> LanguageModel:
    """Load a language model.

    Args:
        name: a language model of `ossicle models`, a folder in transformers' format, or a repository on the hub.
        bits: 4 or 8 loads it quantised, which needs a GPU and bitsandbytes; 0 does not.
        precision: of the frozen weights; bfloat16 is taken on a GPU only.

    Raises:
        UnknownNameError: for a name that is none of these.
        UsageError: if it cannot be quantised here.
        WeightsError: if it cannot be had or is no causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {"quantization_config": _quantised(bits), "device_map": {"": 0}} if bits else {}
    half = torch.cuda.is_available() and resolve(precision) == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    folder = _folder(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{name} is no causal language model that transformers can load: {_line(error)}") from None
    shown = name if name in weights.SOURCES or (REPO.fullmatch(name) and not Path(name).exists()) else folder.name
    commit = folder.name if shown == name and name not in weights.SOURCES else ""  # hashing 16 GB takes a minute
    return LanguageModel(model, tokenizer, shown, commit or weights.digest(folder))


def _folder(name: str) -> Path:
    if name in weights.SOURCES or Path(name).expanduser().exists() or not REPO.fullmatch(name):
        return weights.fetch(name)
    from huggingface_hub import snapshot_download

    try:
        local = not network.hub_reachable()
        told: dict[str, Any] = {"ignore_patterns": ["consolidated*"], "local_files_only": local}
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, **told))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"], **told))
        return folder
    except Exception as error:  # each version of the hub library raises its own
        raise WeightsError(f"there is no folder {name}, and the hub did not give it: {_line(error)}") from None


def _quantised(bits: int) -> Any:
    """Settings of a 4- or 8-bit base (Dettmers et al. 2023, QLoRA)."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if bits not in (4, 8):
        raise UsageError(f"a base of {bits} bits was asked for; give 4, 8, or 0 for none")
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise UsageError(f"a {bits}-bit base needs a CUDA GPU and `pip install bitsandbytes`; set task.llm_bits=0")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@dataclass(frozen=True)
class Prompt:
    """What the language model reads around the sound.

    Args:
        before: token ids in front of the sound.
        after: token ids between the sound and the caption.
        end: the token that ends a caption.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: int


PLACEHOLDER = "[audio]"


def prompt(tokenizer: Any, text: str, *, chat: bool) -> Prompt:
    """Token ids of a prompt with a place for the sound.

    Args:
        tokenizer: of the language model.
        text: has "[audio]" once.
        chat: in the tokenizer's chat template, as a user's turn; else as plain text, a line of its own.

    Raises:
        UsageError: if the text has no single "[audio]", or the tokenizer no chat template or end token.
    """
    if text.count(PLACEHOLDER) != 1:
        raise UsageError(f"the prompt {text!r} has {text.count(PLACEHOLDER)} times {PLACEHOLDER}; write it once")
    if chat and not tokenizer.chat_template:
        raise UsageError("this language model has no chat template; set task.prompt_form='plain'")
    if not chat:
        return _plain(tokenizer, text)
    turn = [{"role": "user", "content": text}]
    given = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **FIXED)
    before, _, after = given.rpartition(PLACEHOLDER)
    said = [*turn, {"role": "assistant", "content": PLACEHOLDER}]
    rest = tokenizer.apply_chat_template(said, tokenize=False, **FIXED).rpartition(PLACEHOLDER)[2]
    ids = _ids(tokenizer, rest)
    end = ids[0] if ids and ids[0] in tokenizer.all_special_ids else tokenizer.eos_token_id
    return Prompt(_ids(tokenizer, before.rstrip(" ")), _ids(tokenizer, after), _end(end))


def _plain(tokenizer: Any, text: str) -> Prompt:
    before, _, after = text.partition(PLACEHOLDER)
    ids = list(tokenizer(before.rstrip(" "))["input_ids"])
    while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        ids.pop()
    return Prompt(tuple(ids), _ids(tokenizer, f"{after}\n"), _end(tokenizer.eos_token_id))


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _said(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Ids of what a person wrote: a special token in it is only letters."""
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _end(token: int | None) -> int:
    if token is None:
        raise UsageError("this language model has no end token; give one whose tokenizer has an eos_token")
    return token


def targets(tokenizer: Any, end: int, captions: Sequence[str]) -> Tensor:
    """(batch, longest) ids of each caption and the end token, -100 after them: what the loss is taken of."""
    rows = [[*_said(tokenizer, text), end] for text in captions]
    longest = max(map(len, rows))
    return torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
