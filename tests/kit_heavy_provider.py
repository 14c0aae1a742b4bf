"""A provider whose module brings matplotlib and prints."""

import kit_providers
import matplotlib

print("here I am")


class Heavy(kit_providers.Good):
    """Draws."""

    backend = matplotlib.__name__
