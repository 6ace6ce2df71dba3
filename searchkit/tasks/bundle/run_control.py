"""Play the environment with the model: the action of the largest value, step by step.

    python run.py                    the episodes that the model was tested on
    python run.py --episodes 10
    python run.py --show             on the screen, where the environment can be drawn

Needs numpy and onnxruntime; and gymnasium to play. Without it, the values of some states are shown.
"""
import argparse
import json
import pathlib

import numpy as np
import onnxruntime

HERE = pathlib.Path(__file__).resolve().parent


class Agent:
    """Observations in, actions out."""

    def __init__(self, name="model.onnx"):
        manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        for setting in manifest["session_options"].items():
            options.add_session_config_entry(*setting)
        self.session = onnxruntime.InferenceSession(str(HERE / name), options, providers=["CPUExecutionProvider"])

    def values(self, observations):
        """(n, ...) to (n, actions)."""
        return self.session.run(["action_values"], {"observation": observations})[0]

    def act(self, observation):
        """The action for one observation, counted from 0."""
        return int(self.values(observation[None])[0].argmax())


def play(agent, env, about, seed):
    """The return of the episode of this seed, and its steps."""
    from gymnasium.spaces import flatten

    def encoded(observation):
        if about["n_states"]:
            return np.array(int(observation) - int(env.observation_space.start), np.int64)
        if isinstance(observation, np.ndarray):
            return observation.astype(np.float32).reshape(-1)
        return np.asarray(flatten(env.observation_space, observation), np.float32)

    observation, _ = env.reset(seed=seed)
    total = 0.0
    for step in range(1, about["max_steps"] + 1):
        action = agent.act(encoded(observation)) + about["first_action"]
        observation, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        if terminated or truncated:
            break
    return total, step


def main():
    about = json.loads((HERE / "environment.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=len(about["seeds"]), help="of those it was tested on")
    parser.add_argument("--show", action="store_true", help="on the screen")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wanted = parser.parse_args()
    if not 1 <= wanted.episodes <= len(about["seeds"]):
        parser.error(f"--episodes {wanted.episodes}: give a number from 1 to {len(about['seeds'])}")
    agent = Agent()
    try:
        import gymnasium
    except ModuleNotFoundError:
        golden = np.load(HERE / "golden.npz", allow_pickle=False)["input.observation"]
        print(f"{about['id']} is played where gymnasium is installed; the values of the actions in some states:")
        for observation, values in zip(golden, agent.values(golden)):
            print(observation, values.round(3), "take", int(values.argmax()) + about["first_action"])
        return
    env = gymnasium.make(about["id"], render_mode="human" if wanted.show else None)
    found = [play(agent, env, about, seed) for seed in about["seeds"][: wanted.episodes]]
    env.close()
    returns = [total for total, _ in found]
    if wanted.json:
        print(json.dumps({"environment": about["id"], "returns": returns, "steps": [n for _, n in found]}))
    else:
        print(f"{about['id']}: mean return {np.mean(returns):.6g} of {len(returns)} episodes, from {min(returns):.6g} to {max(returns):.6g}")


if __name__ == "__main__":
    main()
