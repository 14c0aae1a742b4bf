"""What a person sees: the live dashboard and the static result."""
