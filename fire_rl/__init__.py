"""FIRE-RL: reset methods for deep reinforcement learning."""
