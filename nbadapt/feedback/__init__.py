"""Preferences of people: what is compared, where the answers come from, who chooses.

::

    prompts, models ──> comparisons ──> session ──> widget | function ──> nbadapt.preferences
                        (generation: in a thread of its own, ahead of the person)
"""
