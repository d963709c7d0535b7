"""Frozen vision transformers that listen: ViT, DeiT and DINOv2 over a one-channel spectrogram.

Their three-colour patch convolution is summed to one channel, which equals showing the spectrogram in every colour.
"""

from ossicle.backbones import keys, patches
from ossicle.backbones.encoder import Spec
from ossicle.backbones.patches import PatchSizes


def _spec(name: str, summary: str, sizes: PatchSizes) -> Spec:
    return Spec(name, name, sizes, patches.make, keys.vit, patches.infer, summary)


def _dinov2(dim: int, heads: int) -> PatchSizes:
    return PatchSizes(
        dim=dim, heads=heads, hidden=4 * dim, patch=(14, 14), stride=(14, 14), table=(37, 37), extra=1,
        layer_scale=True, resize="bicubic",
    )  # fmt: skip


DEIT_BASE_384 = _spec(
    "deit-base-384",
    "DeiT distilled, 86 M, ImageNet; the backbone of the Look-Aside paper",
    PatchSizes(stride=(16, 16), table=(24, 24), eps=1e-6),
)
VIT_BASE = _spec(
    "vit-base",
    "ViT, 86 M, ImageNet-21k",
    PatchSizes(stride=(16, 16), table=(14, 14), extra=1, eps=1e-12, resize="bicubic"),
)
DINOV2_SMALL = _spec("dinov2-small", "DINOv2, 22 M, self-supervised on images", _dinov2(384, 6))
DINOV2_BASE = _spec("dinov2-base", "DINOv2, 86 M, self-supervised on images", _dinov2(768, 12))
