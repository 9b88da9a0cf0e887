"""Fused operations: each with a plain torch truth, a Triton kernel for CUDA and a C++ form for processors.

`monai_ext.ops.<op>` is a package of

- `__init__.py`: the public functions, registered with torch (fake tensors, gradients);
- `reference.py`: what they mean, in plain torch; float64 in, float64 out;
- `cuda.py` (Triton), `cpu.py` with `kernel.cpp` (C++): the same functions, faster;
- `cases.py`: inputs, used by the tests and by `python -m monai_ext benchmark ops`.

`forms.implementation` chooses among them at every call; `python -m monai_ext ops` prints what it chooses and why.
"""
