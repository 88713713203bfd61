"""Drop-ins: the calls of other libraries, with their signatures and meanings and fnconv's hand-derived gradients.

    from fnconv.compat import lax      conv_general_dilated  conv_transpose  reduce_window
    from fnconv.compat import flax     max_pool  min_pool  avg_pool  pool
    from fnconv.compat import keras    conv  depthwise_conv  conv_transpose  max_pool  average_pool

An argument works as the original's does or raises NotImplementedError naming it.  No gradient of a convolution or a
pooling is left to autodiff; as with all of fnconv, `jax.jvp` is `fnconv.jvp`.  Neither Flax nor Keras is imported.
"""

from fnconv.compat import flax, keras, lax

__all__ = ["flax", "keras", "lax"]
