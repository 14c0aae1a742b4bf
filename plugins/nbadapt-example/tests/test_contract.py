"""Every rule of nbadapt's contract is one test."""

from nbadapt.testing import parametrize_with_checks
from nbadapt_example.method import Vera


@parametrize_with_checks([Vera])
def test_contract(check):
    check()
