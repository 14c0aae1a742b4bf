"""The conformance kit: what the contract asks of a method, as checks that a third party can run."""
