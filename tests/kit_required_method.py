"""A method whose module brings what it says it requires, if nothing that is heavy for all."""

import sqlite3

import kit_methods


class RequiredImport(kit_methods.Good):
    requires = ("torch", "pydantic", "sqlite3")  # pydantic is nbadapt's own
    version = sqlite3.sqlite_version
