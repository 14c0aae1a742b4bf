"""Documents -> chunks -> vectors -> a store that is searched by meaning, by words, or by both.

::

    files ──loaders──> Document ──chunks──> Chunk ──engines.embed──> vector ──> Store <── Index.search

`nbadapt.index` and ``%nbadapt index`` build one. (The package is not called ``index``: importing it would then
put a module in the place of that function.)
"""
