"""Reference scores of tasks: what a random policy reaches, and a human or the mark of success.

A normalised score is (return − random) / (reference − random): 0 is chance, 1 is the reference.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Reference(NamedTuple):
    """Mean returns of a random policy and of the reference that counts as 1."""

    random: float
    reference: float


# Random policy and professional human tester, no-op starts, episodes of at most 108,000 frames:
# Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning", 2016, table 2 (the 49 games of
# Mnih et al., 2015, and 8 more). Keys are the games' names in their environment ids.
ATARI: dict[str, Reference] = {
    "Alien": Reference(227.8, 7127.7),
    "Amidar": Reference(5.8, 1719.5),
    "Assault": Reference(222.4, 742.0),
    "Asterix": Reference(210.0, 8503.3),
    "Asteroids": Reference(719.1, 47388.7),
    "Atlantis": Reference(12850.0, 29028.1),
    "BankHeist": Reference(14.2, 753.1),
    "BattleZone": Reference(2360.0, 37187.5),
    "BeamRider": Reference(363.9, 16926.5),
    "Berzerk": Reference(123.7, 2630.4),
    "Bowling": Reference(23.1, 160.7),
    "Boxing": Reference(0.1, 12.1),
    "Breakout": Reference(1.7, 30.5),
    "Centipede": Reference(2090.9, 12017.0),
    "ChopperCommand": Reference(811.0, 7387.8),
    "CrazyClimber": Reference(10780.5, 35829.4),
    "Defender": Reference(2874.5, 18688.9),
    "DemonAttack": Reference(152.1, 1971.0),
    "DoubleDunk": Reference(-18.6, -16.4),
    "Enduro": Reference(0.0, 860.5),
    "FishingDerby": Reference(-91.7, -38.7),
    "Freeway": Reference(0.0, 29.6),
    "Frostbite": Reference(65.2, 4334.7),
    "Gopher": Reference(257.6, 2412.5),
    "Gravitar": Reference(173.0, 3351.4),
    "Hero": Reference(1027.0, 30826.4),
    "IceHockey": Reference(-11.2, 0.9),
    "Jamesbond": Reference(29.0, 302.8),
    "Kangaroo": Reference(52.0, 3035.0),
    "Krull": Reference(1598.0, 2665.5),
    "KungFuMaster": Reference(258.5, 22736.3),
    "MontezumaRevenge": Reference(0.0, 4753.3),
    "MsPacman": Reference(307.3, 6951.6),
    "NameThisGame": Reference(2292.3, 8049.0),
    "Phoenix": Reference(761.4, 7242.6),
    "Pitfall": Reference(-229.4, 6463.7),
    "Pong": Reference(-20.7, 14.6),
    "PrivateEye": Reference(24.9, 69571.3),
    "Qbert": Reference(163.9, 13455.0),
    "Riverraid": Reference(1338.5, 17118.0),
    "RoadRunner": Reference(11.5, 7845.0),
    "Robotank": Reference(2.2, 11.9),
    "Seaquest": Reference(68.4, 42054.7),
    "Skiing": Reference(-17098.1, -4336.9),
    "Solaris": Reference(1236.3, 12326.7),
    "SpaceInvaders": Reference(148.0, 1668.7),
    "StarGunner": Reference(664.0, 10250.0),
    "Surround": Reference(-10.0, 6.5),
    "Tennis": Reference(-23.8, -8.3),
    "TimePilot": Reference(3568.0, 5229.2),
    "Tutankham": Reference(11.4, 167.6),
    "UpNDown": Reference(533.4, 11693.2),
    "Venture": Reference(0.0, 1187.5),
    # Some later tables give 0 for the random policy here.
    "VideoPinball": Reference(16256.9, 17667.9),
    "WizardOfWor": Reference(563.5, 4756.5),
    "YarsRevenge": Reference(3092.9, 54576.9),
    "Zaxxon": Reference(32.5, 9173.3),
}

# Mark of success: Sferrazza et al., "HumanoidBench", 2024. Random policy: for the FIRE paper's three tasks as
# its code has them; for the others measured with HumanoidBench's code on mujoco 3.1.6 (uniform actions,
# no action repeat, 100 episodes, reach and crawl 20). Measured so, the first three are 4.0, 12.2 and 3.0.
HUMANOID: dict[str, Reference] = {
    "h1-walk": Reference(2.4, 700.0),
    "h1-balance_simple": Reference(9.4, 800.0),
    "h1-run": Reference(2.0, 700.0),
    "h1-stand": Reference(15.9, 800.0),
    "h1-reach": Reference(132.7, 12000.0),
    "h1-hurdle": Reference(3.7, 700.0),
    "h1-crawl": Reference(273.7, 700.0),
    "h1-maze": Reference(106.9, 1200.0),
    "h1-sit_simple": Reference(8.8, 750.0),
    "h1-sit_hard": Reference(3.4, 750.0),
    "h1-balance_hard": Reference(12.1, 800.0),
    "h1-stair": Reference(5.4, 700.0),
    "h1-slide": Reference(5.0, 700.0),
    "h1-pole": Reference(24.0, 700.0),
}

REFERENCES = {f"atari/{game}": scores for game, scores in ATARI.items()} | {
    f"humanoid/{task}": scores for task, scores in HUMANOID.items()
}


def normalised(env: str, returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """`returns` in `env` ("atari/Asterix") with the random policy at 0 and the reference at 1.

    Raises:
        ValueError: when no reference scores are known for `env`.
    """
    if env not in REFERENCES:
        raise ValueError(f"there are no reference scores for {env}: it can be plotted, not normalised")
    random, reference = REFERENCES[env]
    return (returns - random) / (reference - random)
