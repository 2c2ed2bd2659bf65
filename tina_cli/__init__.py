"""tina: a sentence in, a working image classifier out.

`generate` and `load_classifier` are the Python side of the command line; importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tina_cli.generation import generate
    from tina_cli.prediction import load_classifier

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load_classifier"]


def __getattr__(name: str) -> Any:
    if name == "generate":
        from tina_cli.generation import generate

        return generate
    if name == "load_classifier":
        from tina_cli.prediction import load_classifier

        return load_classifier
    raise AttributeError(f"module 'tina_cli' has no attribute {name!r}")
