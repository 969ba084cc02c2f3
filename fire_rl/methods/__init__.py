"""The built-in reset methods, one short file each; importing this package registers them."""

from fire_rl.methods.fire import Fire
from fire_rl.methods.full_reset import FullReset
from fire_rl.methods.none import NoReset
from fire_rl.methods.plasticity_injection import PlasticityInjection
from fire_rl.methods.shrink_perturb import ShrinkPerturb, SrDqn

__all__ = ["Fire", "FullReset", "NoReset", "PlasticityInjection", "ShrinkPerturb", "SrDqn"]
