"""The public functions behind the operator definitions of other standards, so that their test cases can be run."""
