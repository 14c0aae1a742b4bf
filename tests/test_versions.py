"""Plugins that were written for another version of their contract are refused; for methods see test_registry.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributions import Site

from nbadapt import model_names
from nbadapt.errors import ModelError, PluginError
from nbadapt.indexing import store

OTHER_VERSIONS = {
    "nbadapt.stores": """
from nbadapt.indexing.sqlite import SqliteStore

class Plugin(SqliteStore):
    contract = 2
""",
    "nbadapt.models": """
from nbadapt.packaged_models import PackagedModel

Plugin = PackagedModel("later", "acme", "pip install acme", "acme/model", contract=2)
""",
}


@pytest.mark.parametrize("group", OTHER_VERSIONS)
def test_a_store_or_a_model_of_another_version_is_refused(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path / "site", monkeypatch)
    site.add("acme", "2.0", {"later": "acme_later:Plugin"}, {"acme_later": OTHER_VERSIONS[group]}, group=group)
    said = "acme 2.0 of the (store|model) 'later' .*written for contract version 2, and this nbadapt speaks version 1"
    try:
        with pytest.raises((PluginError, ModelError), match=said):
            store.kind("later") if group == "nbadapt.stores" else model_names.load_package("later")
    finally:
        site.forget()
