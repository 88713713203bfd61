"""Judges of gradients: `own` of this package, `rule` of a custom_vjp of a user's, `model` of a whole model."""
