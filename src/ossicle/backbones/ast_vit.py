"""AST: the audio spectrogram transformer (Gong et al. 2021), and SSAST weights for it (Gong et al. 2022)."""

from ossicle.backbones import keys, patches
from ossicle.backbones.encoder import Spec

AST_BASE = Spec(
    name="ast-base",
    weights="ast-base",
    sizes=patches.PatchSizes(eps=1e-12, frontend="ast_hf"),
    make=patches.make,
    keys=keys.vit,
    infer=patches.infer,
    summary="AST, 86 M, trained on AudioSet; also original .pth, SSAST and PETL_AST files",
)
