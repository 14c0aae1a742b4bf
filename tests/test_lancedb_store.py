"""LanceDB as a store: what every store must do, and what is special to a folder of LanceDB."""

from __future__ import annotations

import pytest

from nbadapt.testing.stores import StoreContract


class TestLance(StoreContract):
    kind = "nbadapt_plugins.lancedb_store:LanceStore"
    kills = 1  # a process that imports LanceDB takes two seconds
    enough = 3


@pytest.mark.slow
class TestLanceAtLength(StoreContract):
    kind = TestLance.kind
