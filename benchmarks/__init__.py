"""How fast fnconv is: against JAX's automatic gradients and against Torch, in one process, equality first."""
