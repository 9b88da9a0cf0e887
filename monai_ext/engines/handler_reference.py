"""A handler defined elsewhere in a config, as an element of a list of handlers."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine


class HandlerReference:
    """Attaches the handler it is given.

    MONAI's check of properties and its apps expect every element of `train#handlers` to be a dict with `_target_`, so
    that a plain `@reference` cannot stand there.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        self.handler.attach(engine)
