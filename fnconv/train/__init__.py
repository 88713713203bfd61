"""LeNet-5 trained on real digits, every gradient derived by hand."""
