"""``%nbadapt doctor``: what is here, what is wrong with it, and how each thing is mended."""
