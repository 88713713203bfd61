"""Judges of gradients: `own` of this package, `rule` of a custom_vjp of the user's, `model` of a whole model."""
