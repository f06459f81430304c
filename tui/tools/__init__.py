"""Tools that a model may ask for. Nothing runs before the user or the settings have allowed it."""
