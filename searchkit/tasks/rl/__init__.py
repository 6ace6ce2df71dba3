"""Reinforcement learning: environments, replay, and agents scored by whole episodes."""
