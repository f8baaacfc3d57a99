"""CEL as Kubernetes has it: rules of custom resources and admission policies.

Start at program.py: `compile_expression(text, variables)` gives a `Program`; `Program.evaluate(bindings)` a value.
library.py holds the functions that Kubernetes adds to the language.
"""
