"""What data sets that lie in files share: options that name a file or folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Lt
from pydantic import PlainSerializer, Strict

# Strict would refuse the text that a recipe writes.
Location = Annotated[Path, Strict(False), PlainSerializer(str)]

#: Part of the examples that a split takes.
Share = Annotated[float, Gt(0), Lt(1)]


def expanded(path: Path) -> Path:
    """The path with ``~`` as the home folder.

    By os.path, as pathlib's own method raises on an unknown user.
    """
    return Path(os.path.expanduser(path))


def shared_out(count: int, validation: float, test: float) -> tuple[int, int]:
    """How many of ``count`` examples come before the validation split, and before the test split after it.

    Each of the two has one example at least, where that leaves one to train on; else the first number is not positive.
    """
    tested = max(1, round(count * test))
    before = count - tested - max(1, round(count * validation))
    return before, count - tested
