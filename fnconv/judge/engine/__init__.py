"""What the judges share.

- `replay` evaluates a jaxpr in an arithmetic: as traced, without derivative rules, or as `rounding` has it: in float64,
  with rounding errors, on whole numbers.  A new arithmetic is a class with one table of what its steps do.
- `programs` compiles: quickly, in a precision of its own, and in float64 with what rounding explains of each result.
- `arguments` takes a call apart and names its arrays; `distances` says how far arrays are from each other.
- `running_error` bounds the error of a step, `followed` that of a program; `diagnose` guesses at causes.
- `report` has the rows, failures and verdicts that all reports are made of.

`own`, `rule` and `model` import these and never each other.
"""
