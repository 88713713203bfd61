"""The operations: the public function, its forward and its backward rule, side by side."""
