"""The method form without its widget: fields drawn from declarations, the cell that they stand for, its estimate."""
