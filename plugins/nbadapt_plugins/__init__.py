"""The built-in methods: one module each, declared in pyproject.toml as a third party would."""
