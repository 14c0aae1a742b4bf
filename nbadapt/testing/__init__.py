"""The conformance kit: what the contract of `nbadapt.method` asks of a method, as checks that anybody can run.

::

    from nbadapt.testing import check, parametrize_with_checks

    print(check(MyMethod))                       # a table of every rule, with all failures

    @parametrize_with_checks([MyMethod])         # one pytest test a rule
    def test_contract(check):
        check()

The checks run the method on tiny real models that are built on the spot; nothing is downloaded.
"""

from nbadapt.testing.kit import Check, Report, Result, check, checks, parametrize_with_checks
from nbadapt.testing.tiny import tiny_model

__all__ = ["Check", "Report", "Result", "check", "checks", "parametrize_with_checks", "tiny_model"]
