"""SAC on networks of one hidden layer in NumPy float64, every gradient by hand: the judge of test_sac.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

F64 = Any  # arrays of float64


def f64(tensors: dict[str, Tensor]) -> dict[str, F64]:
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def policy(w: dict[str, F64], s: F64, noise: F64) -> dict[str, F64]:
    """Hidden layer, action and log-density of the actor with weights `w`."""
    h = np.maximum(s @ w["encoder.linear0.weight"].T + w["encoder.linear0.bias"], 0.0)
    mean = h @ w["head.mean.weight"].T + w["head.mean.bias"]
    raw = h @ w["head.log_std.weight"].T + w["head.log_std.bias"]
    log_std = -10.0 + 6.0 * (1.0 + np.tanh(raw))
    x = mean + np.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * np.log(2.0 * np.pi)
    log_prob = (gaussian - 2.0 * (np.log(2.0) - x - np.logaddexp(0.0, -2.0 * x))).sum(1)
    return {"h": h, "raw": raw, "std": np.exp(log_std), "a": np.tanh(x), "log_prob": log_prob}


def critic(w: dict[str, F64], s: F64, a: F64) -> tuple[F64, F64, F64]:
    """Input (B, d), hidden (2, B, h) and values (2, B) of both critics."""
    x = np.concatenate([s, a], 1)
    h = x @ w["encoder.linear0.weight"].transpose(0, 2, 1) + w["encoder.linear0.bias"][:, None]
    h = np.maximum(h, 0.0)
    return x, h, (h * w["head.weight"]).sum(2) + w["head.bias"]


def actor_gradient(w: dict[str, F64], c: dict[str, F64], alpha: float, s: F64, noise: F64) -> dict[str, F64]:
    """Gradient of E[α log π − min_i Q_i] by the chain rule."""
    p = policy(w, s, noise)
    _, h, q = critic(c, s, p["a"])
    chosen = q.argmin(0)
    rows = np.arange(len(s))
    slope = (h[chosen, rows] > 0) * c["head.weight"][chosen, 0]  # dQ/d(pre-activation)
    # dQ/da: behind the observation in the input
    dq_da = np.einsum("bh,bha->ba", slope, c["encoder.linear0.weight"][chosen][:, :, s.shape[1] :])
    dx = (alpha * 2.0 * p["a"] - dq_da * (1.0 - p["a"] ** 2)) / len(s)
    dlog_std = dx * p["std"] * noise - alpha / len(s)
    draw = dlog_std * 6.0 * (1.0 - np.tanh(p["raw"]) ** 2)
    dh = (dx @ w["head.mean.weight"] + draw @ w["head.log_std.weight"]) * (p["h"] > 0)
    return {
        "encoder.linear0.weight": dh.T @ s,
        "encoder.linear0.bias": dh.sum(0),
        "head.mean.weight": dx.T @ p["h"],
        "head.mean.bias": dx.sum(0),
        "head.log_std.weight": draw.T @ p["h"],
        "head.log_std.bias": draw.sum(0),
    }


def critic_gradient(w: dict[str, F64], s: F64, a: F64, goal: F64) -> dict[str, F64]:
    """Gradient of Σ_i E[(Q_i − goal)²]."""
    x, h, q = critic(w, s, a)
    dq = 2.0 * (q - goal) / len(s)
    dh = dq[:, :, None] * w["head.weight"] * (h > 0)
    return {
        "encoder.linear0.weight": np.einsum("ebh,bx->ehx", dh, x),
        "encoder.linear0.bias": dh.sum(1),
        "head.weight": np.einsum("eb,ebh->eh", dq, h)[:, None],
        "head.bias": dq.sum(1, keepdims=True),
    }


class AdamW:
    """Loshchilov & Hutter's decoupled weight decay, as optax writes it: p ← p − lr (m̂ / (√v̂ + ε) + wd p)."""

    def __init__(self, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate, self.weight_decay, self.steps = learning_rate, weight_decay, 0
        self.m: dict[str, F64] = {}
        self.v: dict[str, F64] = {}

    def step(self, p: dict[str, F64], g: dict[str, F64]) -> dict[str, F64]:
        self.steps += 1
        new = {}
        for name in p:
            self.m[name] = 0.9 * self.m.get(name, 0.0) + 0.1 * g[name]
            self.v[name] = 0.999 * self.v.get(name, 0.0) + 0.001 * g[name] ** 2
            m, v = self.m[name] / (1 - 0.9**self.steps), self.v[name] / (1 - 0.999**self.steps)
            change = m / (np.sqrt(v) + 1e-8) + self.weight_decay * p[name]
            new[name] = p[name] - self.learning_rate * change
        return new
