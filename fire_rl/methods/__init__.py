"""The built-in reset methods, one short file each; importing this package registers them."""

from fire_rl.methods.continual_backprop import ContinualBackprop
from fire_rl.methods.crelu import ConcatenatedReLU
from fire_rl.methods.dash import Dash
from fire_rl.methods.fire import Fire
from fire_rl.methods.full_reset import FullReset
from fire_rl.methods.hare_tortoise import HareTortoise
from fire_rl.methods.l2_init import L2Init
from fire_rl.methods.layer_norm import LayerNorm
from fire_rl.methods.muon import Muon
from fire_rl.methods.none import NoReset
from fire_rl.methods.normalize_and_project import NormalizeAndProject
from fire_rl.methods.parseval import Parseval
from fire_rl.methods.plasticity_injection import PlasticityInjection
from fire_rl.methods.redo import ReDo
from fire_rl.methods.regrama import ReGraMa
from fire_rl.methods.scheduled_resets import Bbf, Bro, PrimacyReset, SrSpr
from fire_rl.methods.self_normalized_resets import SelfNormalizedResets
from fire_rl.methods.shrink_perturb import ShrinkPerturb, SrDqn
from fire_rl.methods.spectral_regularization import SpectralRegularization
from fire_rl.methods.upgd import Upgd
from fire_rl.methods.weight_clipping import WeightClipping

__all__ = [
    "Bbf",
    "Bro",
    "ConcatenatedReLU",
    "ContinualBackprop",
    "Dash",
    "Fire",
    "FullReset",
    "HareTortoise",
    "L2Init",
    "LayerNorm",
    "Muon",
    "NoReset",
    "NormalizeAndProject",
    "Parseval",
    "PlasticityInjection",
    "PrimacyReset",
    "ReDo",
    "ReGraMa",
    "SelfNormalizedResets",
    "ShrinkPerturb",
    "SpectralRegularization",
    "SrDqn",
    "SrSpr",
    "Upgd",
    "WeightClipping",
]
