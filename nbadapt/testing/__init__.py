"""The conformance kit: what the contracts of plugins ask, as checks that anybody can run.

::

    from nbadapt.testing import check, parametrize_with_checks

    check(MyMethod)                              # a table of every rule, with all failures

    @parametrize_with_checks([MyMethod])         # one pytest test a rule
    def test_contract(check):
        check()

Methods, stores of indexes, providers and packaged models are checked alike. Methods run on tiny real models that are
built on the spot, providers against a server on this machine; nothing is downloaded.
"""

from nbadapt.testing.kit import Check, Report, Result, UnusableError, check, checks, parametrize_with_checks
from nbadapt.testing.tiny import tiny_model

__all__ = [
    "Check",
    "Report",
    "Result",
    "UnusableError",
    "check",
    "checks",
    "parametrize_with_checks",
    "tiny_model",
]
