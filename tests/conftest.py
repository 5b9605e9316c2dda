"""One thread for the whole suite, so that neither results nor times depend on the machine; plugins leave no trace."""

from collections.abc import Iterator

import pytest
import torch

from compose.core import registry

torch.set_num_threads(1)


def _apart() -> Iterator[None]:
    """What is loaded meanwhile is forgotten afterwards; else a run would record the plugins of tests before it."""
    registry.names("net")  # entry points belong to every test
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_plugged", {role: dict(parts) for role, parts in registry._plugged.items()})
        patch.setattr(registry, "_plugins", registry.plugins())
        yield


plugins_of_a_module = pytest.fixture(autouse=True, scope="module")(_apart)
plugins_of_a_test = pytest.fixture(autouse=True)(_apart)
