"""Scripts of a bundle run where nothing of this project can be imported."""

import subprocess
import sys

WITHOUT = """
import sys, runpy
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "onnxscript", "searchkit", "optuna", "sklearn", "scipy", "jinja2"):
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def python(*arguments):
    """Run a script where only numpy and onnxruntime can be imported, isolated from the environment and this folder."""
    return subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT, *map(str, arguments)], capture_output=True, text=True, cwd="/"
    )
