"""A store whose module brings scikit-learn."""

import sklearn

from nbadapt.indexing.sqlite import SqliteStore


class Heavy(SqliteStore):
    """Clusters."""

    version = sklearn.__version__
