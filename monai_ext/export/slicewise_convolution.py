"""3D convolutions of an ONNX file, rewritten as 2D convolutions of depth slices.

ONNX Runtime computes 2D convolutions on processors directly, in a layout of its own, in float32 and in 8 bits; a 3D one
it unrolls into a matrix, which is slower, and in 8 bits no faster than in float32. A 3x3x3 convolution is a sum of 2D
ones over neighbouring slices, in one of two forms:

- `stacked`: three neighbouring slices become the channels of one 2D convolution. As many multiplications; the form to
  quantise.
- `winograd`: along the depth, m results of a kernel of 3 need m + 2 products instead of 3 m (Winograd, Arithmetic
  complexity of computations, 1980; for networks Lavin and Gray, CVPR 2016). Slices are combined, convolved with
  combined kernels, and the results combined. For m = 4 half of the multiplications are left, and float32 loses one to
  two bits.

Only the graph changes: the file keeps its inputs, outputs and operators of the standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.atomic_files import replacing
from monai_ext.export.onnx_packages import onnx_package

FORMS = ("winograd", "stacked")

# F(m, 3) with the points 0, 1, -1 (and 2, -2 for m = 4), and infinity. Kernels are multiplied by the rows of
# KERNELS; what happens to slices and results is written out in _Rewriting, with sums that two rows share taken once.
KERNELS = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}


def write_slicewise(source: str | Path, path: str | Path, form: str = "winograd") -> int:
    """Read an ONNX file and write it with 3D convolutions as 2D ones.

    Rewritten are convolutions without groups and dilation whose kernel has depth 1 or 3 and more than one pixel, and
    whose input has a fixed size; all others stay. The batch size may be free.

    Args:
        source: ONNX file with fixed spatial sizes.
        path: to write; may be the source.
        form: `winograd` or `stacked`, see the module; steps of 2 and depths that do not gain are stacked in both.

    Returns:
        Number of convolutions rewritten.

    Raises:
        ValueError: unknown form.
        InputError: onnx is not installed.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    onnx = onnx_package("onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    count = _Rewriting(model.graph, onnx, form).rewrite()
    del model.graph.value_info[:]
    with replacing(path) as partial:
        onnx.save(model, str(partial))
        onnx.checker.check_model(str(partial))
    return count


def results_at_once(depth: int) -> int:
    """How many slices of results (1, 2 or 4) cost the fewest 2D convolutions of slices, `depth` slices in all."""
    costs = {1: 3 * depth, 2: 4 * -(-depth // 2), 4: 6 * -(-depth // 4)}
    return min(costs, key=lambda m: (costs[m], m))


class _Rewriting:
    """One graph while its convolutions are replaced; tensors between nodes are `[B, D, C, H, W]`."""

    def __init__(self, graph: Any, onnx: Any, form: str) -> None:
        self.graph = graph
        self.onnx = onnx
        self.form = form
        self.arrays = {tensor.name: tensor for tensor in graph.initializer}
        self.shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in [*graph.input, *graph.value_info, *graph.output]
        }
        self.nodes: list[Any] = []
        self.prefix = ""

    def rewrite(self) -> int:
        count = 0
        for node in self.graph.node:
            kernel = self._kernel(node)
            if kernel is None:
                self.nodes.append(node)
            else:
                count += 1
                self.prefix = f"{node.output[0]}_slices"
                self._replace(node, kernel)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.graph.node for name in node.input}
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name not in used]:
            self.graph.initializer.remove(tensor)
        return count

    def _kernel(self, node: Any) -> np.ndarray | None:
        """The weights `[O, C, kd, kh, kw]` of a convolution that can be rewritten."""
        if node.op_type != "Conv" or node.input[1] not in self.arrays:
            return None
        kernel = self.onnx.numpy_helper.to_array(self.arrays[node.input[1]])
        if kernel.ndim != 5 or kernel.dtype != np.float32 or not all(self.shapes.get(node.input[0], [0])[1:]):
            return None
        options = _options(node)
        simple = (
            options.get("group", 1) == 1 and set(options.get("dilations", [1])) == {1} and "auto_pad" not in options
        )
        depth, *plane = kernel.shape[2:]
        pads = options.get("pads", [0] * 6)
        right_depth = (depth == 1 and pads[0] == pads[3] == 0) or (depth == 3 and pads[0] == pads[3] == 1)
        return kernel if simple and right_depth and max(plane) > 1 else None

    def _replace(self, node: Any, kernel: np.ndarray) -> None:
        _, _, depth, height, width = self.shapes[node.input[0]]
        options = _options(node)
        stride = options.get("strides", [1, 1, 1])
        pads = options.get("pads", [0] * 6)
        plane = {"strides": stride[1:], "pads": [pads[1], pads[2], pads[4], pads[5]], "kernel_shape": kernel.shape[3:]}
        size = [
            (n + plane["pads"][k] + plane["pads"][k + 2] - kernel.shape[3 + k]) // stride[1 + k] + 1
            for k, n in enumerate((height, width))
        ]
        bias = node.input[2] if len(node.input) > 2 else ""
        x = self._add("Transpose", [node.input[0]], perm=[0, 2, 1, 3, 4])
        at_once = results_at_once(depth) if self.form == "winograd" and stride[0] == 1 else 1
        if kernel.shape[2] == 1:
            slices = [x] if stride[0] == 1 else [self._slices(x, 0, (depth - 1) // stride[0] + 1, stride[0])]
            y = self._convolve(slices[0], kernel[:, :, 0], bias, plane, size)
        elif at_once == 1:
            count = (depth - 1) // stride[0] + 1
            padded = self._padded(x, 1, max(0, (count - 1) * stride[0] + 2 - depth))
            slices = [self._slices(padded, k, count, stride[0]) for k in range(3)]
            stacked = np.concatenate([kernel[:, :, k] for k in range(3)], axis=1)
            y = self._convolve(self._add("Concat", slices, axis=2), stacked, bias, plane, size)
        else:
            y = self._winograd(x, kernel, bias, plane, size, depth, at_once)
        self._add("Transpose", [y], output=node.output[0], perm=[0, 2, 1, 3, 4])

    def _winograd(
        self,
        x: str,
        kernel: np.ndarray,
        bias: str,
        plane: dict[str, Any],
        size: Sequence[int],
        depth: int,
        at_once: int,
    ) -> str:
        count = -(-depth // at_once)
        padded = self._padded(x, 1, count * at_once + 1 - depth)
        d = [self._slices(padded, k, count, at_once) for k in range(at_once + 2)]
        combined = self._combined_slices_2(d) if at_once == 2 else self._combined_slices_4(d)
        kernels = np.einsum("nk,ockhw->nochw", KERNELS[at_once], kernel.astype(np.float64)).astype(np.float32)
        # the sum of results 1 and 2 is in every slice, with factor 1 or not at all: a bias would come twice
        products = [self._convolve(v, k, "", plane, size) for v, k in zip(combined, kernels, strict=True)]
        results = self._results_2(products) if at_once == 2 else self._results_4(products)
        apart = [self._add("Unsqueeze", [y, self._constant([2])]) for y in results]
        together = self._add("Concat", apart, axis=2)
        y = self._shaped(together, [0, count * at_once, kernel.shape[0], *size])
        if count * at_once > depth:
            y = self._slices(y, 0, depth, 1)
        return self._add("Add", [y, self._bias(bias)]) if bias else y

    def _combined_slices_2(self, d: Sequence[str]) -> list[str]:
        return [self._minus(d[0], d[2]), self._plus(d[1], d[2]), self._minus(d[2], d[1]), self._minus(d[1], d[3])]

    def _results_2(self, p: Sequence[str]) -> list[str]:
        return [
            self._plus(self._plus(p[0], p[1]), p[2]),
            self._minus(self._minus(p[1], p[2]), p[3]),
        ]

    def _combined_slices_4(self, d: Sequence[str]) -> list[str]:
        even, odd = self._minus(d[4], self._times(d[2], 4)), self._minus(d[3], self._times(d[1], 4))
        far_even, far_odd = self._minus(d[4], d[2]), self._times(self._minus(d[3], d[1]), 2)
        return [
            self._plus(self._minus(self._times(d[0], 4), self._times(d[2], 5)), d[4]),
            self._plus(even, odd),
            self._minus(even, odd),
            self._plus(far_even, far_odd),
            self._minus(far_even, far_odd),
            self._plus(self._minus(self._times(d[1], 4), self._times(d[3], 5)), d[5]),
        ]

    def _results_4(self, p: Sequence[str]) -> list[str]:
        near_sum, near_difference = self._plus(p[1], p[2]), self._minus(p[1], p[2])
        far_sum, far_difference = self._plus(p[3], p[4]), self._minus(p[3], p[4])
        return [
            self._plus(self._plus(p[0], near_sum), far_sum),
            self._plus(near_difference, self._times(far_difference, 2)),
            self._plus(near_sum, self._times(far_sum, 4)),
            self._plus(self._plus(near_difference, self._times(far_difference, 8)), p[5]),
        ]

    def _convolve(self, x: str, kernel: np.ndarray, bias: str, plane: dict[str, Any], size: Sequence[int]) -> str:
        """2D convolution of every slice: `[B, D, C, H, W]` to `[B, D, O, *size]`."""
        outputs, channels = kernel.shape[:2]
        # two unknown sizes, batch and depth, become one and two again: the depth is read off the tensor
        shape = self._add("Shape", [x], end=2)
        plane_shape = self._add("Shape", [x], start=3)
        flat = self._add("Reshape", [x, self._add("Concat", [self._constant([-1, channels]), plane_shape], axis=0)])
        weights = self._initialiser(np.ascontiguousarray(kernel))
        y = self._add("Conv", [flat, weights, *([bias] if bias else [])], **plane)
        return self._add("Reshape", [y, self._add("Concat", [shape, self._constant([outputs, *size])], axis=0)])

    def _padded(self, x: str, before: int, after: int) -> str:
        return self._add("Pad", [x, self._constant([0, before, 0, 0, 0, 0, after, 0, 0, 0])])

    def _slices(self, x: str, first: int, count: int, step: int) -> str:
        limits = ([first], [first + (count - 1) * step + 1], [1], [step])
        return self._add("Slice", [x, *map(self._constant, limits)])

    def _shaped(self, x: str, shape: Sequence[int]) -> str:
        return self._add("Reshape", [x, self._constant(list(shape))])

    def _plus(self, a: str, b: str) -> str:
        return self._add("Add", [a, b])

    def _minus(self, a: str, b: str) -> str:
        return self._add("Sub", [a, b])

    def _times(self, a: str, factor: float) -> str:
        return self._add("Mul", [a, self._initialiser(np.array(factor, dtype=np.float32))])

    def _bias(self, name: str) -> str:
        values = self.onnx.numpy_helper.to_array(self.arrays[name])
        return self._initialiser(values.reshape(1, 1, -1, 1, 1))

    def _constant(self, values: Sequence[int]) -> str:
        return self._initialiser(np.array(values, dtype=np.int64))

    def _initialiser(self, values: np.ndarray) -> str:
        name = f"{self.prefix}_value{len(self.graph.initializer)}"
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def _add(self, kind: str, inputs: Sequence[str], output: str = "", **options: Any) -> str:
        name = output or f"{self.prefix}_{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(kind, list(inputs), [name], name=f"{self.prefix}{len(self.nodes)}", **options)
        )
        return name


def _options(node: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for attribute in node.attribute:
        options[attribute.name] = list(attribute.ints) or (attribute.i if attribute.type == 2 else attribute.s.decode())
    return options
