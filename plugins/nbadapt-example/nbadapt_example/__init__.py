"""The method vera for nbadapt."""
